"""What a run shows of itself: evaluations on the way, the pairs, samples, the summary."""

import math
from dataclasses import dataclass, replace
from typing import Any

from redpencil.console import say
from redpencil.data.loader import all_once
from redpencil.data.tokenize import readable
from redpencil.engine.metrics import MetricsLog, read_metrics
from redpencil.engine.state import TrainState
from redpencil.errors import NonFiniteError
from redpencil.evals.accuracy import Evaluation, evaluate
from redpencil.folders.run import RunFolder
from redpencil.intervals import Z95
from redpencil.objectives import bind, kind_of_rewards
from redpencil.recipes.stages import DpoRecipe
from redpencil.report.wording import fixed
from redpencil.stages.drawing import Drawn, draw, sequence_kl
from redpencil.stages.pair_log import PairLog
from redpencil.stages.pair_texts import write_pair_texts
from redpencil.stages.pair_tokens import write_pair_tokens
from redpencil.stages.wiring import Wiring

BEFORE = "before.json"
"""Metrics of step 0, kept for the summary of a run that was resumed in between."""

_SHORT = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "perplexity": "perplexity",
    "kl": "KL",
}


@dataclass(frozen=True, slots=True)
class Look:
    """One evaluation: held-out measurements, samples, and KL with its standard error."""

    step: int
    held_out: Evaluation
    drawn: Drawn
    kl: tuple[float, float | None] | None

    @property
    def metrics(self) -> dict[str, float]:
        kl = {"kl": self.kl[0]} if self.kl else {}
        return {**self.held_out.metrics, **kl}

    @property
    def said(self) -> str:
        """The metrics in a line, the KL with half its 95 % interval."""
        parts = [f"{s} {fixed(self.metrics[k])}" for k, s in _SHORT.items() if k in self.metrics]
        if self.kl and self.kl[1] is not None:
            parts[-1] += f" ± {fixed(Z95 * self.kl[1])}"
        return "  ".join(parts)


class Monitor:
    """Evaluates a run and writes what the report reads: `pairs.jsonl`, `samples.jsonl`."""

    def __init__(self, wiring: Wiring, log: MetricsLog) -> None:
        self.wiring = wiring
        self.log = log
        self.latest: Look | None = None
        self.pairs = _pair_log(wiring)

    def begin(self, state: TrainState) -> TrainState:
        """Evaluate before training: what the reference does, and what it says."""
        state = self.evaluate(state)
        assert self.latest is not None
        self.wiring.folder.write(BEFORE, self.latest.metrics)
        self._write_pairs(self.latest)
        rows = self._sample_rows(self.latest.drawn, "reference")
        self.wiring.folder.write_rows("samples.jsonl", [{"step": 0, **row} for row in rows])
        return state

    def evaluate(self, state: TrainState) -> TrainState:
        """Evaluate, log under `eval/`, and note the best step."""
        self.latest = look = self._look(state.step)
        if self.pairs:
            self.pairs.write(state.step, look.held_out.valued)
        if look.metrics:
            self.log.write(state.step, {f"eval/{k}": v for k, v in look.metrics.items()})
            say(f"step {state.step:>6}  evaluation: {look.said}")
        loss = look.held_out.metrics.get("loss")
        if loss is not None and (state.best_loss is None or loss < state.best_loss):
            return replace(state, best_loss=loss, best_step=state.step)
        return state

    def finish(self, state: TrainState) -> dict[str, Any]:
        """Write the final pairs and samples, and return what `summary.json` says."""
        if self.latest is None or self.latest.step != state.step:  # resumed after the last step
            self.latest = self._look(state.step)
        look = self.latest
        self._write_pairs(look)
        if self.pairs:
            write_pair_tokens(self.wiring, self.pairs)
        self._write_samples(look)
        summary: dict[str, Any] = {
            "status": "done",
            "steps": state.step,
            "seconds": state.seconds,
            "best_step": state.best_step,
            "eval_before": before_training(self.wiring.folder),
            "eval_after": look.metrics,
        }
        if look.kl:
            summary["kl"] = {"mean": look.kl[0], "stderr": look.kl[1], "per": "response"}
        return summary

    def _look(self, step: int) -> Look:
        wiring = self.wiring
        examples = wiring.prepared.evaluation
        was_training = wiring.model.training
        wiring.model.eval()
        try:
            batches = all_once(examples, wiring.recipe.token_budget, wiring.cost)
            count = sum(len(e.responses) for e in examples)
            held_out = evaluate(wiring.model, wiring.eval_task, batches, count)
            refuse_non_finite(held_out, step)
            drawn = draw(wiring)
            has_kl = drawn.prompts and wiring.references
            return Look(step, held_out, drawn, sequence_kl(wiring, drawn) if has_kl else None)
        finally:
            wiring.model.train(was_training)

    def _write_pairs(self, look: Look) -> None:
        if self.pairs:
            wiring = self.wiring
            valued = look.held_out.valued
            write_pair_texts(wiring.folder, self.pairs, wiring.tokenizer, look.step, valued)

    def _write_samples(self, look: Look) -> None:
        """Put the policy's samples beside the reference's of the same prompts."""
        now = self._sample_rows(look.drawn, "policy")
        before = beside(now, self.wiring.folder.read_rows_or_warn("samples.jsonl"))
        rows = [{**b, **n, "step": look.step} for b, n in zip(before, now, strict=True)]
        self.wiring.folder.write_rows("samples.jsonl", rows)

    def _sample_rows(self, drawn: Drawn, whose: str) -> list[dict[str, Any]]:
        tokenizer = self.wiring.tokenizer
        return [
            {"prompt": readable(p, tokenizer), whose: readable(c, tokenizer, after=p)}
            for p, c in zip(drawn.prompts, drawn.completions, strict=True)
        ]


def before_training(folder: RunFolder) -> dict[str, Any]:
    """What step 0 measured: of its own file, or where that is lost, of the metrics."""
    found = folder.read_or_warn(BEFORE)
    if found is not None:
        return found
    rows = [row for row in read_metrics(folder.path / "metrics.jsonl") if row["step"] == 0]
    return {
        name.removeprefix("eval/"): value
        for row in rows
        for name, value in row.items()
        if name.startswith("eval/")
    }


def beside(now: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples of before training, one for each of now; empty ones where those were lost."""
    same = [row.get("prompt") for row in before] == [row["prompt"] for row in now]
    return before if same else [{} for _ in now]


def _pair_log(wiring: Wiring) -> PairLog | None:
    """None where nothing is compared."""
    if wiring.references is None:
        return None
    data = wiring.prepared
    recipe = wiring.recipe
    assert isinstance(recipe, DpoRecipe), recipe
    own = recipe.reference in ("base", "preferred-ft")  # of which the policy begins as a copy
    compute = bind(recipe.loss, **recipe.loss_options)
    return PairLog(
        wiring.folder.path,
        data.train,
        data.evaluation,
        wiring.references,
        judges_at_start=not own or kind_of_rewards(compute) == "own",
    )


def refuse_non_finite(held_out: Evaluation, step: int) -> None:
    """Raises NonFiniteError where an evaluation's loss is none."""
    loss = held_out.metrics.get("loss", 0.0)
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the evaluation loss is {loss} after step {step}; training stops, the last checkpoint "
            "is kept; a lower learning rate may help"
        )
