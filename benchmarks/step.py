"""A training step on trees against the same step on padded sequences, interleaved.

    python -m benchmarks.step [--prompts 64] [--prompt 200] [--response 60] [--responses 2]
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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from redpencil.data.group import number_responses
from redpencil.data.loader import Loader, LoaderState
from redpencil.data.packing import padded_cost, tree_cost
from redpencil.engine.step import train_step
from redpencil.fit.budget import CAP
from redpencil.models.kernels import choose_kernels, keep_freed_memory, matrix_kernels
from redpencil.models.load import equip
from redpencil.optim import OptimConfig, build_optimizer
from redpencil.scores.forward import tree_logps
from redpencil.scores.oracle import oracle_logps
from redpencil.stages.tasks import preference_task
from redpencil.types import Batch, Comparison, Example, Origin, Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Synthetic pairs: random tokens, lengths spread by a quarter around these means."""

    prompts: int = 64
    prompt: int = 200
    response: int = 60
    responses: int = 2
    vocabulary: int = 8192
    batch_size: int = 8
    max_tokens: int = CAP["cpu"]

    def examples(self) -> list[Example]:
        """Every response is above the next."""
        rng = np.random.default_rng(0)

        def ids(mean: int) -> np.ndarray:
            length = max(2, int(rng.normal(mean, mean / 4)))
            return rng.integers(10, self.vocabulary, length).astype(np.int32)

        def response() -> Response:
            tokens = ids(self.response)
            scored = np.ones(len(tokens), dtype=bool)
            return Response(ids=tokens, scored=scored, origin=Origin("synthetic", 1))

        count = range(self.responses)
        pairs = [Comparison(chosen=i, rejected=j) for i in count for j in count if i < j]
        return number_responses(
            Example(
                prompt_ids=ids(self.prompt),
                responses=tuple(response() for _ in count),
                comparisons=tuple(pairs),
                prompt_key=str(n),
            )
            for n in range(self.prompts)
        )


class Stepper:
    """Training steps of one model on batches of a shape; the reference is known and zero."""

    def __init__(
        self,
        model: PreTrainedModel,
        shape: Shape,
        *,
        examples: Sequence[Example] | None = None,
        padded: bool = False,
    ) -> None:
        examples = shape.examples() if examples is None else examples
        zeros = torch.zeros(sum(len(e.responses) for e in examples))
        score = oracle_logps if padded else tree_logps
        self.task = preference_task("dpo", {}, score, lambda batch: zeros[batch.response_index])
        config = OptimConfig(learning_rate=1e-5)
        self.model = model
        self.optimizer = build_optimizer(model.named_parameters(), config)
        loader = Loader(
            examples=examples,
            batch_size=shape.batch_size,
            max_tokens=shape.max_tokens,
            seed=0,
            cost=padded_cost if padded else tree_cost,
        )
        self.batches = loader.iterate(LoaderState())

    def step(self) -> tuple[Batch, float, float]:
        """(batch, loss, seconds of the whole step, the laying of its trees included)."""
        begun = time.perf_counter()
        batch, _ = next(self.batches)
        means = train_step(self.model, self.optimizer, batch, self.task, max_grad_norm=1.0)
        return batch, means["loss"], time.perf_counter() - begun


def small_model(vocabulary: int) -> PreTrainedModel:
    """A Qwen3-style decoder of 13 million parameters beside its embeddings."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    equip(model)
    return model.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    defaults = Shape()
    for name in Shape.__slots__:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(defaults, name))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    shape = Shape(**{name: getattr(args, name) for name in Shape.__slots__})
    keep_freed_memory()
    tree, padded = (
        Stepper(small_model(shape.vocabulary), shape, padded=padded) for padded in (False, True)
    )
    with matrix_kernels(choose_kernels(tree.model).name):
        first, other = tree.step()[1], padded.step()[1]
        assert abs(first - other) < 1e-4 * abs(other), f"losses differ: {first} and {other}"
        print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
              f"torch {torch.__version__}; first losses {first:.6f} and {other:.6f}")  # fmt: skip
        times = [(tree.step()[2], padded.step()[2]) for _ in range(args.rounds)]
    ours, theirs = (statistics.median(t[i] for t in times) for i in (0, 1))
    ratio = statistics.median(p / t for t, p in times)
    size = shape.batch_size
    print(f"trees  {ours:7.3f} s a step, {size / ours:7.2f} prompts/s (median)")
    print(f"padded {theirs:7.3f} s a step, {size / theirs:7.2f} prompts/s (median)")
    print(f"ratio  {ratio:7.2f} (median of {args.rounds} pairs)")


if __name__ == "__main__":
    main()
