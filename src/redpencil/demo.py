"""`redpencil demo`: the paper's path on the embedded review world, from nothing to a report.

SFT on reviews; four completions of each prefix from the SFT model; all pairs of them labelled by
the Bradley-Terry model on the true reward [Eq. 1]; DPO [Eq. 7]; then, on held-out prefixes, what
only an embedded world can know: the true reward before and after, beside the KL [Eq. 3].
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from redpencil.api import Loaded, load
from redpencil.console import progress_bar, say
from redpencil.data.loader import all_once
from redpencil.data.tokenize import prompt_ids, readable
from redpencil.drawing import as_examples
from redpencil.models.export import save_model
from redpencil.recipes import DpoRecipe, SftRecipe
from redpencil.report import build_report
from redpencil.rollout.sample import sample
from redpencil.run import Run, train
from redpencil.runfolder import RunFolder
from redpencil.scores.forward import tree_logps
from redpencil.tasks import in_precision
from redpencil.world.fluency import reads_as_review
from redpencil.world.model import fresh_model
from redpencil.world.pairs import label_pairs, prefixes, sft_rows
from redpencil.world.reward import true_reward
from redpencil.world.settings import DemoSettings
from redpencil.world.tokenizer import world_tokenizer

HELD_OUT = 0.1
"""Share of the labelled prefixes whose pairs DPO does not see."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Completions of held-out prefixes with their true rewards.

    texts: whole reviews; rewards: (prefixes,); completions: token ids.
    """

    texts: list[str]
    completions: list[np.ndarray]
    rewards: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.rewards.mean())

    @property
    def stderr(self) -> float:
        return float(self.rewards.std(ddof=1) / len(self.rewards) ** 0.5)

    @property
    def fluent(self) -> float:
        """Share of texts that read as reviews."""
        return float(np.mean([reads_as_review(text) for text in self.texts]))


def demo(out: Path, *, seed: int, settings: DemoSettings | None = None) -> Run:
    """Run the whole path under `out`; stages that are finished are not redone."""
    settings = settings or DemoSettings()
    began = time.perf_counter()
    sft = _sft(out, settings, seed)
    pairs = _pairs(out, sft, settings, seed)
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
    summary = _judge(run, sft, settings, seed)
    _tell(summary, run, time.perf_counter() - began)
    return run


def _sft(out: Path, settings: DemoSettings, seed: int) -> Run:
    """A language model of reviews, from scratch: the world's pi_ref."""
    start, data = out / "world" / "model", out / "world" / "reviews.jsonl"
    if not start.is_dir():
        say("world     a grammar of film reviews whose true reward is known for every text")
        tokenizer = world_tokenizer()
        _write_rows(data, sft_rows(settings.reviews, seed))
        save_model(fresh_model(tokenizer, seed), tokenizer, start)
    return train(
        SftRecipe(
            model=str(start),
            data=str(data),
            out=str(out / "sft"),
            eval_fraction=0.02,
            group_prompts=False,
            batch_size=settings.sft_batch_size,
            learning_rate=settings.sft_learning_rate,
            warmup_steps=settings.sft_warmup_steps,
            max_grad_norm=settings.max_grad_norm,
            checkpoint_every=10_000,
            sample_prompts=8,
            sample_tokens=settings.max_new_tokens,
            seed=seed,
        )
    )


def _pairs(out: Path, sft: Run, settings: DemoSettings, seed: int) -> Path:
    """Preferences between completions of the SFT model, labelled from the true reward."""
    path = out / "world" / "pairs.jsonl"
    if path.is_file():
        return path
    loaded = load(sft.model)
    starts = prefixes(settings.train_prefixes, seed)
    completions = _sampled(loaded, starts, settings, num=settings.completions, seed=seed)
    rng = random.Random(f"labels {seed}")
    rows = []
    for start, each in zip(starts, completions, strict=True):
        texts = [readable(c, loaded.tokenizer) for c in each]
        rewards = [true_reward(start + text) for text in texts]
        rows.append(label_pairs(start, texts, rewards, rng, settings.label_temperature))
    _write_rows(path, rows)
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
    before = _judged(reference, held_out, settings, seed)
    after = _judged(policy, held_out, settings, seed)
    ratios = _log_ratios(policy, reference, held_out, after.completions)
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
            "mean": float(ratios.mean()),
            "stderr": float(ratios.std(ddof=1) / len(ratios) ** 0.5),
            "per": "response",
        },
    }
    folder.write_rows("samples.jsonl", _sample_rows(held_out, before, after, summary["steps"]))
    folder.write("summary.json", summary)
    build_report(run.path)
    return summary


def _judged(loaded: Loaded, starts: Sequence[str], settings: DemoSettings, seed: int) -> Judged:
    completions = [c[0] for c in _sampled(loaded, starts, settings, num=1, seed=seed)]
    texts = [
        start + readable(c, loaded.tokenizer) for start, c in zip(starts, completions, strict=True)
    ]
    return Judged(texts, completions, np.array([true_reward(text) for text in texts]))


def _sampled(
    loaded: Loaded, starts: Sequence[str], settings: DemoSettings, *, num: int, seed: int
) -> list[list[np.ndarray]]:
    tokenizer = loaded.tokenizer
    with progress_bar() as bar:
        row = bar.add_task("sampling", total=len(starts))
        return sample(
            loaded.model,
            [prompt_ids(start, tokenizer) for start in starts],
            num=num,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            eos_ids=[tokenizer.eos_token_id],
            pad_id=tokenizer.pad_token_id,
            seed=seed,
            batch_size=256,
            progress=lambda done: bar.advance(row, done),
        )


@torch.no_grad()
def _log_ratios(
    policy: Loaded, reference: Loaded, starts: Sequence[str], completions: Sequence[np.ndarray]
) -> np.ndarray:
    """log pi(y|x) - log pi_ref(y|x) of completions drawn from the policy: their mean is the KL."""
    ids = [prompt_ids(start, policy.tokenizer) for start in starts]
    examples = as_examples(ids, [[c] for c in completions])
    device = next(policy.model.parameters()).device
    score = in_precision(tree_logps, device)
    batches = [batch.to(device) for batch in all_once(examples, 4096)]

    def scored(model: PreTrainedModel) -> torch.Tensor:
        return torch.cat([score(model, b) for b in batches]).cpu().double()

    return (scored(policy.model) - scored(reference.model)).numpy()


def _sample_rows(
    starts: Sequence[str], before: Judged, after: Judged, step: int
) -> list[dict[str, Any]]:
    rows = zip(starts, before.texts, after.texts, before.rewards, after.rewards, strict=True)
    return [
        {
            "step": step,
            "prompt": start,
            "reference": was.removeprefix(start),
            "policy": now.removeprefix(start),
            "reference_score": float(low),
            "policy_score": float(high),
        }
        for start, was, now, low, high in list(rows)[:40]
    ]


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    scratch.write_text("".join(lines), encoding="utf-8")
    scratch.replace(path)


def _tell(summary: dict[str, Any], run: Run, seconds: float) -> None:
    reward, fluent, kl = summary["true_reward"], summary["fluent"], summary["kl"]
    accuracy = summary["eval_after"].get("rewards/accuracies", float("nan"))
    say("")
    say(f"On {reward['prefixes']} held-out prefixes, after {seconds:.0f} s:", style="bold")
    say(
        f"  true reward               {reward['before']:+.2f} ± {reward['stderr_before']:.2f}  →  "
        f"{reward['after']:+.2f} ± {reward['stderr_after']:.2f}"
    )
    say(f"  KL to the reference       {kl['mean']:.2f} ± {kl['stderr']:.2f} nats a review")
    say(f"  held-out pairs in order   {accuracy:.1%} by the implicit reward (50 % before)")
    say(f"  texts that read as reviews  {fluent['before']:.1%}  →  {fluent['after']:.1%}")
    say(f"  report                    {run.report}")
