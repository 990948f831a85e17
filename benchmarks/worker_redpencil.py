"""redpencil's side of the comparison: `redpencil dpo` in its own loop, halted between steps.

python -m benchmarks.worker_redpencil JOB.json
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace

from benchmarks.protocol import Channel, equal_adapters, read_job
from torch import nn

from redpencil.data.loader import Loader
from redpencil.engine.loop import train
from redpencil.engine.metrics import MetricsLog, Number
from redpencil.engine.state import TrainState, trainable
from redpencil.folders.run import RunFolder
from redpencil.models.load import pick_device
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.optim import OptimConfig, build_optimizer
from redpencil.recipes.stages import DpoRecipe
from redpencil.stages.prepare import prepare
from redpencil.stages.wiring import Wiring, wire
from redpencil.types import Measured, Task, TreeBatch

MANY = 1_000_000
"""Steps of the loop: the parent says when it is enough."""


class Fed:
    """Counts what the model is fed in a step, around the task that the engine trains."""

    def __init__(self, task: Task) -> None:
        self._measure = task.measure
        self.task = replace(task, measure=self.measure)
        self.counts = {"tokens": 0, "slots": 0}

    def measure(self, model: nn.Module, batch: TreeBatch) -> Measured:
        self.counts["tokens"] += sequence_tokens(batch)
        self.counts["slots"] += len(batch.input_ids)
        return self._measure(model, batch)


def sequence_tokens(batch: TreeBatch) -> int:
    """Tokens of all prompts and responses written out, two sequences a pair."""
    return sum(
        len(example.prompt_ids) + len(example.responses[side].ids)
        for example in batch.examples
        for pair in example.comparisons
        for side in (pair.chosen, pair.rejected)
    )


class HaltBetweenSteps(MetricsLog):
    """Waits for the parent where the loop logs a step. What the loop does between two steps is
    thereby part of the second."""

    channel: Channel
    fed: Fed

    def write(self, step: int, metrics: Mapping[str, Number]) -> None:
        super().write(step, metrics)
        means = {name: float(metrics[name]) for name in ("loss", "grad_norm")}
        self.channel.answer(**means, **self.fed.counts)
        self.fed.counts.update(tokens=0, slots=0)
        self.channel.wait()


def wired(recipe: DpoRecipe) -> Wiring:
    """Data read and tokenized, model loaded, reference computed: all that comes before a step."""
    assert recipe.max_length is not None
    tokenizer = load_tokenizer(recipe.model)
    return wire(
        recipe.resolve(total_steps=MANY, max_length=recipe.max_length),
        RunFolder.at(recipe.out),
        tokenizer,
        prepare(recipe, "preference", tokenizer, recipe.max_length),
        start=recipe.model,
        device=pick_device(),
        context_length=context_length(recipe.model),
    )


def train_on_request(wiring: Wiring, channel: Channel) -> None:
    """The engine's own loop on the file's pairs in order, a step for each request."""
    recipe, model = wiring.recipe, wiring.model.train()
    assert recipe.learning_rate is not None
    config = OptimConfig(learning_rate=recipe.learning_rate, max_grad_norm=recipe.max_grad_norm)
    optimizer = build_optimizer(trainable(model).items(), config)
    loader = Loader(
        examples=wiring.prepared.train,
        batch_size=recipe.batch_size,
        max_tokens=recipe.token_budget,
        seed=recipe.seed,
        cost=wiring.cost,
        shuffle=False,
    )
    fed = Fed(wiring.task)
    wiring.folder.path.mkdir(parents=True)
    with HaltBetweenSteps(wiring.folder.path, resumed_at=None) as log:
        log.channel, log.fed = channel, fed
        channel.ready()
        channel.wait()
        train(
            model,
            fed.task,
            loader,
            optimizer,
            config,
            TrainState(),
            total_steps=MANY,
            log=log,
            hooks=(),
            on_stop=lambda state: None,
            label="step",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("job")
    job = read_job(parser.parse_args().job)
    channel = Channel()
    recipe = DpoRecipe(
        model=job["model"],
        data=job["data"],
        out=job["out"],
        eval_fraction=0,
        batch_size=job["prompts"],
        max_length=job["max_length"],
        lora_rank=job["lora_rank"],
        learning_rate=job["learning_rate"],
        beta=job["beta"],
        schedule="constant",
        warmup_steps=0,
        cache=False,
    )
    wiring = wired(recipe)
    equal_adapters(wiring.model)
    train_on_request(wiring, channel)


if __name__ == "__main__":
    main()
