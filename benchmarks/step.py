"""`make bench`: a training step on trees against the same step on padded sequences, interleaved.

    python -m benchmarks.step [--pairs 64] [--prompt 200] [--response 60] [--responses 2]
                              [--vocabulary 8192] [--rounds 5]

Both go through the same engine, objective and optimizer settings, from the same weights on the
same synthetic batches; only the scorer differs (`tree_logps` and the padded oracle). The losses
must agree before anything is timed. Quote medians and ratios: single times on a busy machine say
little.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from redpencil.data.loader import Loader, LoaderState, padded_cost, tree_cost
from redpencil.data.tree import number_responses
from redpencil.engine.step import train_step
from redpencil.models.attention import install
from redpencil.optim import OptimConfig, build_optimizer
from redpencil.scores.forward import tree_logps
from redpencil.scores.oracle import oracle_logps
from redpencil.tasks import preference_task
from redpencil.types import Batch, Comparison, Example, Origin, Response


def synthetic_examples(args: argparse.Namespace) -> list[Example]:
    """Random prompts with K responses each, every response above the next."""
    rng = np.random.default_rng(0)

    def ids(mean: int) -> np.ndarray:
        length = max(2, int(rng.normal(mean, mean / 4)))
        return rng.integers(10, args.vocabulary, length).astype(np.int32)

    def response() -> Response:
        tokens = ids(args.response)
        return Response(
            ids=tokens, scored=np.ones(len(tokens), dtype=bool), origin=Origin("synthetic", 1)
        )

    pairs = [(i, j) for i in range(args.responses) for j in range(i + 1, args.responses)]
    return number_responses(
        Example(
            prompt_ids=ids(args.prompt),
            responses=tuple(response() for _ in range(args.responses)),
            comparisons=tuple(Comparison(chosen=i, rejected=j) for i, j in pairs),
            prompt_key=str(n),
        )
        for n in range(args.prompts)
    )


def fresh_model(vocabulary: int) -> PreTrainedModel:
    """A Qwen3-style decoder of about 10 million parameters beside its embeddings."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    install(model)
    return model.train()


def stepper(
    args: argparse.Namespace, examples: list[Example], padded: bool
) -> Callable[[], tuple[float, float]]:
    """A function that makes one step and returns (loss, seconds)."""
    model = fresh_model(args.vocabulary)
    zeros = torch.zeros(sum(len(e.responses) for e in examples))
    score = oracle_logps if padded else tree_logps
    task = preference_task("dpo", {}, score, lambda batch: zeros[batch.response_index])
    config = OptimConfig(learning_rate=1e-5)
    optimizer = build_optimizer(model.named_parameters(), config)
    loader = Loader(
        examples=examples,
        batch_size=args.batch_size,
        max_tokens=args.max_tokens,
        seed=0,
        cost=padded_cost if padded else tree_cost,
    )
    batches = loader.iterate(LoaderState())

    def step() -> tuple[float, float]:
        batch: Batch = next(batches)[0]
        begun = time.perf_counter()
        means = train_step(model, optimizer, batch, task, max_grad_norm=1.0)
        return means["loss"].item(), time.perf_counter() - begun

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, default in {
        "prompts": 64, "prompt": 200, "response": 60, "responses": 2, "vocabulary": 8192,
        "batch-size": 8, "max-tokens": 4096, "rounds": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    examples = synthetic_examples(args)
    tree, padded = (stepper(args, examples, padded) for padded in (False, True))
    (first, _), (other, _) = tree(), padded()
    assert abs(first - other) < 1e-4 * abs(other), f"losses differ: {first} and {other}"
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}; first losses {first:.6f} and {other:.6f}")  # fmt: skip
    times = [(tree()[1], padded()[1]) for _ in range(args.rounds)]
    ours, theirs = (statistics.median(t[i] for t in times) for i in (0, 1))
    ratio = statistics.median(p / t for t, p in times)
    print(f"trees  {ours:7.3f} s a step, {args.batch_size / ours:7.2f} prompts/s (median)")
    print(f"padded {theirs:7.3f} s a step, {args.batch_size / theirs:7.2f} prompts/s (median)")
    print(f"ratio  {ratio:7.2f} (median of {args.rounds} pairs)")


if __name__ == "__main__":
    main()
