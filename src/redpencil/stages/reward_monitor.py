"""What a reward model's run shows of itself: held-out pairs, calibration, and where zero lies."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from redpencil.console import say
from redpencil.data.loader import all_once
from redpencil.engine.metrics import MetricsLog
from redpencil.engine.state import TrainState
from redpencil.evals.accuracy import Evaluation, evaluate
from redpencil.evals.rewards import reward_findings
from redpencil.models.check import gives_reward
from redpencil.report.estimates import clustered_share
from redpencil.report.wording import fixed
from redpencil.stages.centring import Centre, centre_of, note_centre
from redpencil.stages.monitor import BEFORE, before_training, refuse_non_finite
from redpencil.stages.pair_log import PairLog
from redpencil.stages.pair_texts import write_pair_texts
from redpencil.stages.reward import RewardWiring


@dataclass(frozen=True, slots=True)
class RewardLook:
    """One evaluation on the held-out pairs."""

    step: int
    held_out: Evaluation


class RewardMonitor:
    """Evaluates a reward model and writes what the report reads."""

    def __init__(self, wiring: RewardWiring, log: MetricsLog) -> None:
        self.wiring = wiring
        self.log = log
        self.latest: RewardLook | None = None
        data = wiring.prepared
        self.pairs = PairLog(
            wiring.folder.path,
            data.train,
            data.evaluation,
            None,
            judges_at_start=gives_reward(
                wiring.recipe.model, trust_remote_code=wiring.recipe.trust_remote_code
            ),
        )

    def begin(self, state: TrainState) -> TrainState:
        """Evaluate before training: what a head that has learned nothing says."""
        state = self.evaluate(state)
        assert self.latest is not None
        self.wiring.folder.write(BEFORE, self.latest.held_out.metrics)
        self._write_pairs(self.latest)
        return state

    def evaluate(self, state: TrainState) -> TrainState:
        """Evaluate, log under `eval/`, and note the best step."""
        self.latest = look = self._look(state.step)
        self.pairs.write(state.step, look.held_out.valued)
        metrics = look.held_out.metrics
        if not metrics:
            return state
        self.log.write(state.step, {f"eval/{k}": v for k, v in metrics.items()})
        say(
            f"step {state.step:>6}  evaluation: loss {fixed(metrics['loss'])}  accuracy "
            f"{fixed(metrics['rewards/accuracies'])}  margin {fixed(metrics['rewards/margins'])}"
        )
        if state.best_loss is None or metrics["loss"] < state.best_loss:
            return replace(state, best_loss=metrics["loss"], best_step=state.step)
        return state

    def finish(self, state: TrainState) -> dict[str, Any]:
        """Write the final pairs, centre the rewards, and return what `summary.json` says.

        Mean and deviation go into the model's config before it is saved.
        """
        if self.latest is None or self.latest.step != state.step:  # resumed after the last step
            self.latest = self._look(state.step)
        look, wiring = self.latest, self.wiring
        self._write_pairs(look)
        centre = centre_of(wiring)
        note_centre(wiring.model, centre)
        return {
            "status": "done",
            "steps": state.step,
            "seconds": state.seconds,
            "best_step": state.best_step,
            "eval_before": before_training(wiring.folder),
            "eval_after": look.held_out.metrics,
            **self._findings(look),
            "centre": _as_row(centre),
        }

    def _findings(self, look: RewardLook) -> dict[str, Any]:
        examples = self.wiring.prepared.evaluation
        count = sum(len(e.comparisons) for e in examples)
        if not count:
            return {}
        rewards = look.held_out.pi_logps
        pairs = ((e, c, e.response_base) for e in examples for c in e.comparisons)
        found = clustered_share(
            (
                e.prompt_key,
                float(1 + np.sign(rewards[at + c.chosen] - rewards[at + c.rejected])) / 2,
            )
            for e, c, at in pairs
        )
        accuracy, low, high = found.value, found.low, found.high
        say(
            f"accuracy  {accuracy:.1%} of {count:,} held-out pairs (95 % interval {low:.1%} to "
            f"{high:.1%}; a coin toss is 50 %)"
        )
        return {
            "accuracy": {"value": accuracy, "interval": [low, high], "pairs": count},
            **reward_findings(examples, rewards),
        }

    def _look(self, step: int) -> RewardLook:
        wiring = self.wiring
        examples = wiring.prepared.evaluation
        was_training = wiring.model.training
        wiring.model.eval()
        try:
            batches = all_once(examples, wiring.recipe.token_budget, wiring.cost, feed_last=True)
            count = sum(len(e.responses) for e in examples)
            held_out = evaluate(wiring.model, wiring.task, batches, count)
        finally:
            wiring.model.train(was_training)
        refuse_non_finite(held_out, step)
        return RewardLook(step, held_out)

    def _write_pairs(self, look: RewardLook) -> None:
        wiring = self.wiring
        valued = look.held_out.valued
        write_pair_texts(wiring.folder, self.pairs, wiring.tokenizer, look.step, valued)


def _as_row(centre: Centre) -> dict[str, Any]:
    return {
        "mean": centre.mean,
        "std": centre.std,
        "responses": centre.responses,
        "source": centre.source,
    }
