"""A toy language model, pairs for it, and the training loop around them (`from toy import ...`)."""

import numpy as np
import torch
from torch import nn

from redpencil.data.group import number_responses
from redpencil.data.loader import Loader, LoaderState
from redpencil.engine.loop import train
from redpencil.engine.metrics import MetricsLog
from redpencil.engine.state import TrainState, save_checkpoint, trainable
from redpencil.optim import OptimConfig, build_optimizer
from redpencil.types import Comparison, Example, Measured, Origin, Response, Task

VOCABULARY = 11


class Bigram(nn.Module):
    """A language model that looks one token back: enough for the engine."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY))
        self.norm = nn.Parameter(torch.ones(VOCABULARY))

    def logps(self, batch):
        logits = (self.table * self.norm)[batch.input_ids[batch.predecessor]]
        token_logps = logits.log_softmax(-1).gather(1, batch.target_ids[:, None])[:, 0]
        zeros = torch.zeros(len(batch.lengths))
        return zeros.index_add(0, batch.path_response, token_logps[batch.path_token])


def measure(model, batch):
    pi = model.logps(batch)
    margins = pi[batch.pairs.chosen] - pi[batch.pairs.rejected]
    losses = -nn.functional.logsigmoid(margins)
    return Measured(losses=losses, statistics={"margins": margins.detach().sum()}, pi_logps=pi)


TASK = Task(measure=measure, unit="comparison")
CONFIG = OptimConfig(learning_rate=0.05, warmup_steps=2, schedule="cosine")


def examples(n=13):
    rng = np.random.default_rng(0)

    def response(row):
        ids = rng.integers(0, VOCABULARY, rng.integers(1, 7)).astype(np.int32)
        return Response(ids=ids, scored=np.ones(len(ids), bool), origin=Origin("pairs.jsonl", row))

    return number_responses(
        Example(
            prompt_ids=rng.integers(0, VOCABULARY, 3).astype(np.int32),
            responses=(response(row), response(row)),
            comparisons=(Comparison(chosen=0, rejected=1),),
            prompt_key=str(row),
        )
        for row in range(1, n + 1)
    )


def loader(max_tokens=20):
    return Loader(examples=examples(), batch_size=4, max_tokens=max_tokens, seed=1)


def run(
    folder, *, total=9, hooks=(), state=None, model=None, optimizer=None, task=TASK, max_tokens=20
):
    model = model or Bigram()
    optimizer = optimizer or build_optimizer(trainable(model).items(), CONFIG)
    folder.mkdir(parents=True, exist_ok=True)
    with MetricsLog(folder, resumed_at=state.step if state else None) as log:
        state = train(
            model,
            task,
            loader(max_tokens),
            optimizer,
            CONFIG,
            state or TrainState(),
            total_steps=total,
            log=log,
            hooks=hooks(model, optimizer) if hooks else (),
            on_stop=lambda s: save_checkpoint(folder / "checkpoints", s, model, optimizer),
            label="test",
        )
    return model, state


def first_batch(max_tokens):
    return next(loader(max_tokens).iterate(LoaderState()))[0]
