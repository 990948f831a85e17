"""The columns of `RUN/pairs.parquet` and `RUN/tokens.parquet`: what is written and what is read."""

import pyarrow as pa

PAIRS = "pairs.parquet"
"""A folder of parts `part-00000040.parquet`, named after the step up to which they tell."""

TOKENS = "tokens.parquet"

SPLITS = ("eval", "train")

NUMBERS = (
    "reward_chosen",
    "reward_rejected",
    "margin",
    "weight",
    "logp_chosen",
    "logp_rejected",
    "ref_logp_chosen",
    "ref_logp_rejected",
)
LENGTHS = ("length_chosen", "length_rejected")

PAIR_SCHEMA = pa.schema(
    [
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int32()),
        ("pair", pa.int32()),
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int32()),
        *((name, pa.float32()) for name in NUMBERS),
        *((name, pa.int32()) for name in LENGTHS),
    ]
)
"""One measurement of one comparison. Rewards are what the objective holds responses to be worth:
beta * (log pi - log pi_ref) for all of ours, or a reward model's own. The margin of a tie is 0.
Log-probabilities are sums over a response's scored tokens, in nats, and null for a reward model."""

JUDGES_AT_START = b"redpencil.judges_at_start"
"""Metadata of a part, b"1" where the model had an opinion of its own before its first update: a
policy that did not begin as its reference, an objective whose rewards know no reference, or a
reward model whose head was loaded."""

TOKEN_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("pair", pa.int32()),
        ("side", pa.string()),
        ("tokens", pa.list_(pa.string())),
        ("logratio", pa.list_(pa.float32())),
    ]
)
"""The pieces of one response's text, and of each log pi - log pi_ref in nats."""


def part_name(step: int) -> str:
    return f"part-{step:08d}.parquet"
