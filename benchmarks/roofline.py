"""How near a whole training step comes to the machine's matrix products.

    python -m benchmarks.roofline [--sizes 13M,100M] [--rounds 9] [--profile]

The operations that the distinct tokens need, over the rate of a large matrix product that is
measured between the steps, is the shortest time a step could take; the fraction of it reached is
printed. A step is all that `redpencil dpo` does in one: laying trees, forward, backward, clipping,
AdamW.

What is needed stands in [needs.py](needs.py); nothing that is computed twice counts twice.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from benchmarks.needs import operations
from benchmarks.step import Shape, Stepper
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from redpencil.models.kernels import choose_kernels, keep_freed_memory, matrix_kernels
from redpencil.models.load import equip

PEAK_SIZE = 2048
"""Side of the square product that stands for the machine's limit: 17 billion operations."""


@dataclass(frozen=True, slots=True)
class Size:
    """A Qwen3-style decoder and its vocabulary."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int = 8192

    def model(self) -> PreTrainedModel:
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=max(1, self.heads // 3),
            head_dim=64,
            tie_word_embeddings=True,
        )
        model = Qwen3ForCausalLM(config)
        equip(model)
        return model.train()


SIZES = {
    "13M": Size(hidden=384, intermediate=1536, layers=6, heads=6),
    "13M-64k": Size(hidden=384, intermediate=1536, layers=6, heads=6, vocabulary=65_536),
    "100M": Size(hidden=768, intermediate=3072, layers=11, heads=12),
}


class Peak:
    """The rate of one large product, operations a second, under the faster of the two kernels."""

    def __init__(self) -> None:
        self._left, self._right = torch.randn(2, PEAK_SIZE, PEAK_SIZE)
        for name in ("default", "onednn"):
            self._rate(name)  # the first one compiles

    def measure(self) -> float:
        return max(self._rate("default"), self._rate("onednn"))

    def _rate(self, name: str) -> float:
        with matrix_kernels(name):
            begun = time.perf_counter()
            self._left @ self._right.T
            return 2.0 * PEAK_SIZE**3 / (time.perf_counter() - begun)


def profile(stepper: Stepper, steps: int = 3) -> list[tuple[str, float]]:
    """(part, share of the time) of a few steps, largest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
        begun = time.perf_counter()
        for _ in range(steps):
            stepper.step()
        total = time.perf_counter() - begun
    parts: dict[str, float] = {}
    for event in trace.key_averages():
        part = part_of(event.key)
        parts[part] = parts.get(part, 0.0) + event.self_cpu_time_total / 1e6 / total
    parts["not in a torch operation"] = max(0.0, 1 - sum(parts.values()))
    return sorted(parts.items(), key=lambda item: item[1], reverse=True)


ELEMENTWISE = "element by element: norms, rotations, gates, sums, copies"


def part_of(operation: str) -> str:
    if any(name in operation for name in ("flash_attention", "FlashTree", "tree_attention")):
        return "attention"
    if operation.startswith("redpencil::"):
        return ELEMENTWISE
    if operation.removeprefix("aten::") in ("mm", "addmm", "addmm_", "bmm", "linear"):
        return "matrix products, head's included"
    if operation.removeprefix("aten::") in ("exp_", "logsumexp", "sub", "scatter_add_", "gather"):
        return "softmax of the head"
    if "adam" in operation or "norm" in operation:
        return "optimizer and clipping"
    if operation.startswith("aten::"):
        return ELEMENTWISE
    return "autograd and others"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", default="13M,100M", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    args = parser.parse_args()
    keep_freed_memory()
    peak = Peak()
    print("| model | tokens | needed, G | peak, G/s | at peak, s | step, s | reached |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in args.sizes.split(","):
        model = SIZES[name].model()
        choice = choose_kernels(model)
        shape = Shape(prompts=64, prompt=150, response=60, vocabulary=SIZES[name].vocabulary)
        with matrix_kernels(choice.name):
            stepper = Stepper(model, shape)
            stepper.step()
            rows = []
            for _ in range(args.rounds):
                rate = peak.measure()
                batch, _, seconds = stepper.step()
                rows.append((operations(model, batch), rate, seconds, batch))
            needed, rate, seconds = (statistics.median(r[i] for r in rows) for i in range(3))
            reached = statistics.median(r[0] / r[1] / r[2] for r in rows)
            tokens = statistics.median(
                sum(len(m.input_ids) for m in r[3].micro_batches) for r in rows
            )
            print(
                f"| {name} ({choice.name}) | {tokens:.0f} | {needed / 1e9:.0f} | "
                f"{rate / 1e9:.0f} | {needed / rate:.3f} | {seconds:.3f} | {reached:.0%} |"
            )
            if args.profile:
                for part, share in profile(stepper):
                    print(f"    {share:6.1%}  {part}")


if __name__ == "__main__":
    main()
