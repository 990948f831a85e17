"""What an RL run shows of itself: rewards and KL of completions of held-out prompts."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from redpencil.console import say
from redpencil.data.loader import all_once
from redpencil.data.prompts import Prompt
from redpencil.data.tokenize import readable
from redpencil.engine.metrics import MetricsLog
from redpencil.engine.state import TrainState
from redpencil.intervals import Z95
from redpencil.models.training_mode import at_rest
from redpencil.report.wording import fixed
from redpencil.rollout.roll import Sampler, rewards_of
from redpencil.rollout.sample import as_examples
from redpencil.scores.in_memory import in_memory
from redpencil.stages.monitor import BEFORE, before_training
from redpencil.stages.pair_log import PairLog
from redpencil.stages.rl import RlWiring

SAMPLES_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Answered:
    """One completion of each held-out prompt. texts: (prompts,); rewards, kl: (prompts,) float64,
    kl as `scores.divergence` says, in nats; lengths in tokens; finished: ended by an end token."""

    step: int
    texts: list[str]
    rewards: np.ndarray
    kl: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray

    def metrics(self, beta: float) -> dict[str, float]:
        if not self.texts:
            return {}
        return {
            "reward": float(self.rewards.mean()),
            "kl": float(self.kl.mean()),
            "objective": float(self.rewards.mean() - beta * self.kl.mean()),
            "length": float(self.lengths.mean()),
            "finished": float(self.finished.mean()),
        }


class RlMonitor:
    """Evaluates an RL run and writes what the report reads: `samples.jsonl`, the summary."""

    def __init__(self, wiring: RlWiring, log: MetricsLog) -> None:
        self.wiring = wiring
        self.log = log
        self.latest: Answered | None = None
        self.pairs: PairLog | None = None
        self.prompts = wiring.prepared.evaluation[: wiring.recipe.sample_prompts]

    def begin(self, state: TrainState) -> TrainState:
        """Evaluate before training: what the reference earns, and what it says."""
        state = self.evaluate(state)
        assert self.latest is not None
        self.wiring.folder.write(BEFORE, _summary(self.latest, self.wiring.recipe.beta))
        rows = [
            {
                "step": 0,
                "prompt": readable(p.ids, self.wiring.tokenizer),
                "reference": text,
                "reference_score": float(reward),
            }
            for p, text, reward in zip(
                self.prompts, self.latest.texts, self.latest.rewards, strict=True
            )
        ]
        self.wiring.folder.write_rows("samples.jsonl", rows[:SAMPLES_SHOWN])
        return state

    def evaluate(self, state: TrainState) -> TrainState:
        """Evaluate, log under `eval/`, and note the step with the best objective."""
        self.latest = self._answer(state.step)
        metrics = self.latest.metrics(self.wiring.recipe.beta)
        if not metrics:
            return state
        self.log.write(state.step, {f"eval/{k}": v for k, v in metrics.items()})
        say(
            f"step {state.step:>6}  evaluation: reward {_said(self.latest.rewards)}  KL "
            f"{_said(self.latest.kl)}  objective {fixed(metrics['objective'])}"
        )
        loss = -metrics["objective"]
        if math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss):
            return replace(state, best_loss=loss, best_step=state.step)
        return state

    def finish(self, state: TrainState) -> dict[str, Any]:
        """Write the final samples, and return what `summary.json` says."""
        if self.latest is None or self.latest.step != state.step:  # resumed after the last step
            self.latest = self._answer(state.step)
        rows = self.wiring.folder.read_rows_or_warn("samples.jsonl")
        for row, text, reward in zip(rows, self.latest.texts, self.latest.rewards, strict=False):
            row |= {"step": state.step, "policy": text, "policy_score": float(reward)}
        self.wiring.folder.write_rows("samples.jsonl", rows)
        folder = self.wiring.folder
        before = folder.read_or_warn(BEFORE) or {"metrics": before_training(folder)}
        after = _summary(self.latest, self.wiring.recipe.beta)
        summary: dict[str, Any] = {
            "status": "done",
            "steps": state.step,
            "seconds": state.seconds,
            "best_step": state.best_step,
            "eval_before": before.get("metrics", {}),
            "eval_after": self.latest.metrics(self.wiring.recipe.beta),
        }
        if "reward" in before and "reward" in after:
            summary["reward"] = {"before": before["reward"], "after": after["reward"]}
            summary["kl"] = {**after["kl"], "per": "response"}
        return summary

    @torch.no_grad()
    def _answer(self, step: int) -> Answered:
        wiring, prompts = self.wiring, self.prompts
        if not prompts:
            none = np.zeros(0)
            return Answered(step, [], none, none, none, none)
        draw = Sampler(num=1, max_new_tokens=wiring.recipe.max_new_tokens, end_ids=wiring.end_ids)
        drawn = draw(wiring.model, prompts, wiring.recipe.seed)
        completions = [c[0] for c in drawn]
        rewards = rewards_of(wiring.reward, wiring.read, prompts, drawn)
        return Answered(
            step=step,
            texts=[wiring.read(c, p.ids) for c, p in zip(completions, prompts, strict=True)],
            rewards=np.array([r[0] for r in rewards]),
            kl=self._kl(prompts, completions),
            lengths=np.array([len(c) for c in completions]),
            finished=np.array([c[-1] in wiring.end_ids for c in completions]),
        )

    def _kl(self, prompts: list[Prompt], completions: list[np.ndarray]) -> np.ndarray:
        """(prompts,) whose mean is the KL of whole responses."""
        wiring = self.wiring
        found = torch.zeros(len(prompts), dtype=torch.float64)
        examples = as_examples([p.ids for p in prompts], [[c] for c in completions])
        batches = all_once(examples, wiring.recipe.token_budget, wiring.stream.cost)
        with at_rest(wiring.model):
            for laid, kl in in_memory(batches, lambda laid: wiring.kl(laid.to(wiring.device))):
                found[laid.response_index] = kl
        return found.numpy()


def _summary(answered: Answered, beta: float) -> dict[str, Any]:
    """Means with their standard errors over prompts."""
    if not answered.texts:
        return {}
    return {
        "metrics": answered.metrics(beta),
        "reward": _mean(answered.rewards),
        "kl": _mean(answered.kl),
    }


def _said(values: np.ndarray) -> str:
    """A mean with half its 95 % interval over prompts."""
    error = _mean(values)["stderr"]
    by = "" if error is None else f" ± {fixed(Z95 * error)}"
    return f"{fixed(float(values.mean()))}{by}"


def _mean(values: np.ndarray) -> dict[str, float | None]:
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(values.mean()), "stderr": error}
