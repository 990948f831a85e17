"""`redpencil demo`: the paper's path on the embedded review world, from nothing to a report.

SFT on reviews; four completions of each prefix from the SFT model; all pairs of them labelled by
the Bradley-Terry model on the true reward [Eq. 1]; DPO [Eq. 7]; then, on held-out prefixes, what
only an embedded world can know: the true reward before and after, beside the KL [Eq. 3].
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from redpencil.console import clock, say
from redpencil.folders.run import RunFolder
from redpencil.frontier.review_world import (
    Completed,
    complete,
    fit_reference,
    labelled_rows,
    make_world,
    response_kl,
    standard_error,
)
from redpencil.intervals import Z95
from redpencil.locks import alone
from redpencil.recipes.stages import DpoRecipe
from redpencil.report import build_report
from redpencil.report.wording import fixed
from redpencil.stages.run import Run, train
from redpencil.use.api import load
from redpencil.world.pairs import prefixes
from redpencil.world.settings import DEMO_STAGES, DemoSettings

HELD_OUT = 0.1
"""Share of the labelled prefixes whose pairs DPO does not see."""


def demo(out: Path, *, seed: int, settings: DemoSettings | None = None) -> Run:
    """Run the whole path under `out`; stages that are finished are not redone."""
    with alone(out):
        return _demo(out, seed, settings or DemoSettings())


def _demo(out: Path, seed: int, settings: DemoSettings) -> Run:
    began = time.perf_counter()
    _stage(1, began)
    make_world(out, settings, seed)
    _stage(2, began)
    sft = fit_reference(out, settings, seed)
    _stage(3, began)
    pairs = _pairs(out, sft, settings, seed)
    _stage(4, began)
    run = train(
        DpoRecipe(
            model=str(sft.model),
            data=str(pairs),
            out=str(out / "dpo"),
            eval_fraction=HELD_OUT,
            beta=settings.dpo_beta,
            batch_size=settings.dpo_batch_size,
            epochs=settings.dpo_epochs,
            learning_rate=settings.dpo_learning_rate,
            warmup_steps=settings.dpo_warmup_steps,
            max_grad_norm=settings.max_grad_norm,
            sample_prompts=32,
            sample_tokens=settings.max_new_tokens,
            seed=seed,
        )
    )
    _stage(5, began)
    summary = _judge(run, sft, settings, seed)
    _tell(summary, run, time.perf_counter() - began)
    return run


def _stage(number: int, began: float) -> None:
    passed = clock(time.perf_counter() - began)
    say(
        f"\nstage {number} of {len(DEMO_STAGES)}  {DEMO_STAGES[number - 1]}  ({passed})",
        style="bold",
    )


def _pairs(out: Path, sft: Run, settings: DemoSettings, seed: int) -> Path:
    """Preferences between completions of the SFT model, labelled from the true reward."""
    path = out / "world" / "pairs.jsonl"
    if path.is_file():
        return path
    starts = prefixes(settings.train_prefixes, seed)
    completed = complete(load(sft.model), starts, settings, num=settings.completions, seed=seed)
    RunFolder(path.parent).write_rows(path.name, labelled_rows(completed, settings, seed))
    return path


def _judge(run: Run, sft: Run, settings: DemoSettings, seed: int) -> dict[str, Any]:
    """True reward and KL on held-out prefixes, put into the run's summary and report."""
    folder = RunFolder(run.path)
    summary = folder.read("summary.json")
    if "true_reward" in summary:
        return summary
    seen = prefixes(settings.train_prefixes, seed)
    held_out = prefixes(settings.eval_prefixes, seed + 1, exclude=seen)
    reference, policy = load(sft.model), load(run.model)
    before = complete(reference, held_out, settings, num=1, seed=seed)
    after = complete(policy, held_out, settings, num=1, seed=seed)
    kl = response_kl(policy, reference, after)
    summary |= {
        "true_reward": {
            "before": before.mean,
            "after": after.mean,
            "stderr_before": before.stderr,
            "stderr_after": after.stderr,
            "prefixes": len(held_out),
        },
        "fluent": {"before": before.fluent, "after": after.fluent},
        "kl": {
            "mean": float(kl.mean()),
            "stderr": standard_error(kl[:, 0]),
            "per": "response",
        },
    }
    folder.write_rows("samples.jsonl", _sample_rows(held_out, before, after, summary["steps"]))
    folder.write("summary.json", summary)
    build_report(run.path)
    return summary


def _sample_rows(
    starts: Sequence[str], before: Completed, after: Completed, step: int
) -> list[dict[str, Any]]:
    rows = zip(starts, before.texts, after.texts, before.rewards, after.rewards, strict=True)
    return [
        {
            "step": step,
            "prompt": start,
            "reference": was[0].removeprefix(start),
            "policy": now[0].removeprefix(start),
            "reference_score": float(low[0]),
            "policy_score": float(high[0]),
        }
        for start, was, now, low, high in list(rows)[:40]
    ]


def _with_half(mean: float, stderr: float, *, sign: bool = True) -> str:
    """A mean with half its 95 % interval."""
    return f"{fixed(mean, 2, sign=sign)} ± {fixed(Z95 * stderr, 2)}"


def _tell(summary: dict[str, Any], run: Run, seconds: float) -> None:
    reward, fluent, kl = summary["true_reward"], summary["fluent"], summary["kl"]
    accuracy = summary["eval_after"].get("rewards/accuracies", float("nan"))
    tell = partial(say, result=True)
    tell("")
    tell(f"On {reward['prefixes']} held-out prefixes, after {seconds:.0f} s:", style="bold")
    tell(
        f"  true reward               {_with_half(reward['before'], reward['stderr_before'])}  →  "
        f"{_with_half(reward['after'], reward['stderr_after'])}"
    )
    far = _with_half(kl["mean"], kl["stderr"], sign=False)
    tell(f"  KL to the reference       {far} nats a review")
    tell(f"  held-out pairs in order   {accuracy:.1%} by the implicit reward (50 % before)")
    tell(f"  texts that read as reviews  {fluent['before']:.1%}  →  {fluent['after']:.1%}")
    tell(f"  report                    {run.report}")
