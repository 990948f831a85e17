"""What a cross-fitted judge sees of a pair: its words, and what a frozen model makes of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from redpencil.console import track
from redpencil.data.chat import use_separator
from redpencil.data.group import group_by_prompt, number_responses
from redpencil.data.loader import all_once
from redpencil.data.packing import padded_cost, tree_cost
from redpencil.data.split import prompt_key
from redpencil.data.tokenize import tokenize_records
from redpencil.doctor.numbers.words import words_of
from redpencil.errors import DataError
from redpencil.folders.targets import model_folder
from redpencil.models.check import check_examples, check_model, gives_reward
from redpencil.models.configs import is_encoder, read_config
from redpencil.models.load import load_model, pick_device, root_of
from redpencil.models.locate import locate
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.scores.features import feature_scorer_for
from redpencil.scores.forward import Scorer
from redpencil.scores.in_memory import in_memory
from redpencil.stages.tasks import in_precision
from redpencil.types import Comparison, Content, Example, Record, TreeBatch
from redpencil.use.api import SCORING_TOKENS

MOST_WORDS = 1000
"""Words whose presence is a feature: the most frequent ones."""
RAREST = 5
"""Responses that a word must be in."""
WIDEST = 2048
"""Features from hidden states; wider ones are projected on so many random directions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairSet:
    """T comparisons over R responses of records.

    records: of each pair; comparisons: its own, by the places in its record. chosen, rejected: (T,)
    indices into the R responses. texts: of the R responses. keys: of each pair its prompt.
    """

    records: Sequence[Record]
    comparisons: Sequence[Comparison]
    chosen: np.ndarray
    rejected: np.ndarray
    texts: Sequence[str]
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.comparisons)

    def differences(self, features: np.ndarray) -> np.ndarray:
        """(T, F) chosen less rejected, from (R, F) features of the responses."""
        found: np.ndarray = features[self.chosen] - features[self.rejected]
        return found

    @property
    def targets(self) -> np.ndarray:
        """(T,) probability that each label gives to chosen beating rejected."""
        return np.array([c.probability for c in self.comparisons])


def pair_set(
    records: Sequence[Record], comparisons: Sequence[Sequence[Comparison]] | None = None
) -> PairSet:
    """All pairs of records. comparisons: of each record, where not all of its own count."""
    owners: list[Record] = []
    own: list[Comparison] = []
    chosen, rejected, texts, keys = [], [], list[str](), list[str]()
    for place, record in enumerate(records):
        base = len(texts)
        texts += [text_of(r) for r in record.responses]
        key = prompt_key(record.prompt, record.tools)
        for c in record.comparisons if comparisons is None else comparisons[place]:
            owners.append(record)
            own.append(c)
            chosen.append(base + c.chosen)
            rejected.append(base + c.rejected)
            keys.append(key)
    return PairSet(
        records=owners,
        comparisons=own,
        chosen=np.array(chosen, dtype=np.int64),
        rejected=np.array(rejected, dtype=np.int64),
        texts=texts,
        keys=keys,
    )


def text_of(content: Content) -> str:
    """A prompt or response as text: what its turns say, or its token ids as words."""
    if isinstance(content, str):
        return content
    if isinstance(content, np.ndarray):
        return " ".join(map(str, content.tolist()))
    said = (m.get("content") or m.get("tool_calls") or "" for m in content)
    return "\n".join(s if isinstance(s, str) else str(s) for s in said)


def word_features(texts: Sequence[str]) -> np.ndarray:
    """(R, W + 1) float32: which of the frequent words are in each text, and log(1 + its words)."""
    words = [words_of(text) for text in texts]
    counts = Counter(word for each in words for word in set(each))
    kept = [w for w, n in counts.most_common(MOST_WORDS) if n >= RAREST]
    place = {word: i for i, word in enumerate(kept)}
    found = np.zeros((len(texts), len(kept) + 1), dtype=np.float32)
    for row, each in zip(found, words, strict=True):
        row[[place[w] for w in set(each) if w in place]] = 1.0
        row[-1] = np.log1p(len(each))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """features: (R, 2D) float32 of all responses of `pairs`; way: how the model was run."""

    pairs: PairSet
    features: np.ndarray
    way: Scorer


def model_features(
    records: Sequence[Record],
    name: str,
    *,
    max_length: int | None = None,
    chat_template: str = "auto",
    separator: str | None = None,
    trust_remote_code: bool = False,
) -> Seen:
    """One forward pass of a frozen model over the trees of all records.

    name: a language model, a reward model or an encoder: a folder, a run or a Hub name. Records
    that do not fit max_length (the model's own by default), and comparisons of responses with equal
    token ids, are left out. Raises DataError where none is left, ModelError.
    """
    source = model_folder(name)
    device = pick_device()
    model = load_model(
        source,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        device=device,
        trust_remote_code=trust_remote_code,
        **_head(source, trust_remote_code),
    )
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    use_separator(tokenizer, separator, chat_template)
    longest = context_length(source, trust_remote_code=trust_remote_code)
    if is_encoder(model.config):  # some count their positions from the padding id on
        longest = min(longest, tokenizer.model_max_length)
    tokens = tokenize_records(
        records, tokenizer, max_length=max_length or min(longest, 2048), chat_template=chat_template
    )
    if not tokens.examples:
        first = tokens.dropped[0]
        raise DataError(f"no pair is left: {first.origin}: {first.reason} {first.detail}".rstrip())
    examples = number_responses(tokens.examples)
    check_examples(model, examples, name)
    way = feature_scorer_for(model)
    features = response_features(model, in_precision(way.logps, device), way, examples)
    by_origin = {r.origin: r for r in records}
    kept = [by_origin[e.responses[0].origin] for e in examples]
    return Seen(pair_set(kept, [e.comparisons for e in examples]), features, way)


def _head(source: str, trust_remote_code: bool) -> dict[str, Any]:
    """How to load what is only looked into: a head that is drawn at random is never used."""
    config = read_config(root_of(locate(source)), trust_remote_code)
    if is_encoder(config) or gives_reward(source, trust_remote_code=trust_remote_code):
        return {"head": "reward", "new_head": 0}
    return {}


def check_features(name: str, *, trust_remote_code: bool = False) -> None:
    """Raises ModelError where `model_features` could not look into a model."""
    source = model_folder(name)
    head = _head(source, trust_remote_code).get("head", "language")
    check_model(source, head=head, new_head=True, trust_remote_code=trust_remote_code)


@torch.no_grad()
def response_features(
    model: torch.nn.Module,
    score: Callable[[torch.nn.Module, TreeBatch], torch.Tensor],
    way: Scorer,
    examples: Sequence[Example],
) -> np.ndarray:
    """(R, F) float32 features of all responses by `response_base`; equal ones are computed once."""
    device = next(model.parameters()).device
    groups = group_by_prompt(examples)
    cost = tree_cost if way.name == "tree" else padded_cost
    place: dict[tuple[bytes, bytes], int] = {}
    found: np.ndarray | None = None
    project: torch.Tensor | None = None
    count = sum(len(g.responses) for g in groups)
    batches = all_once(groups, SCORING_TOKENS, cost, feed_last=True)
    shown = track(
        batches, what="reading the pairs", total=len(groups), size=lambda b: len(b.examples)
    )
    for batch, values in in_memory(shown, lambda laid: score(model, laid.to(device)).float()):
        if found is None:
            project = _projection(values.shape[1], device)
            found = np.zeros((count, min(values.shape[1], WIDEST)), dtype=np.float32)
        narrow = values if project is None else values @ project
        found[batch.response_index.cpu().numpy()] = narrow.cpu().numpy()
    assert found is not None, "no examples"
    for group in groups:
        for i, response in enumerate(group.responses):
            key = group.prompt_ids.tobytes(), response.ids.tobytes()
            place.setdefault(key, group.response_base + i)
    order = [place[e.prompt_ids.tobytes(), r.ids.tobytes()] for e in examples for r in e.responses]
    return found[order]


def _projection(width: int, device: torch.device) -> torch.Tensor | None:
    """(width, WIDEST) random directions, the same every time, which keep distances nearly as they
    are (Johnson and Lindenstrauss 1984); None where features are narrow enough."""
    if width <= WIDEST:
        return None
    drawn = torch.randn(width, WIDEST, generator=torch.Generator().manual_seed(0))
    return (drawn / WIDEST**0.5).to(device)
