"""Made-up run folders that look like real ones."""

import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

STEPS = 200

TEXTS = [
    "The film moves slowly, but the acting is honest and the ending stays with you.",
    "한국어 답변도 그대로 보여야 합니다. 문장은 짧고, 뜻은 분명해야 합니다.",
    "هذا نص من اليمين إلى اليسار مع كلمة English في وسطه.",
    "A dull plot, a loud score; I left before the credits. 🎬🙂",
    "Let x = 3 & y < 4; then x > y is false. </script><script>alert(1)</script>",
]


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


def make_pairs(count: int, step: int, rng: random.Random, *, shift: float) -> list[dict[str, Any]]:
    """Pairs of a run at a step: log-probabilities moved by `shift` nats, with noise."""
    rows = []
    for i in range(count):
        better, worse = rng.sample(TEXTS, 2)
        ref_w, ref_l = -40 + 8 * rng.gauss(0, 1), -40 + 8 * rng.gauss(0, 1)
        moved = 0.0 if step == 0 else 1.0
        w = ref_w + moved * rng.gauss(0.3 * shift, 6)
        l = ref_l + moved * rng.gauss(-0.7 * shift, 6)  # noqa: E741
        rewards = 0.1 * (w - ref_w), 0.1 * (l - ref_l)
        margin = rewards[0] - rewards[1]
        rows.append(
            {
                "split": "eval",
                "step": step,
                "file": "pairs.jsonl",
                "row": i + 1,
                "prompt": f"Write a review of film number {i // 2}.\n\n",
                "chosen": f"{better} {i}",
                "rejected": f"{worse} {i}",
                "reward_chosen": rewards[0],
                "reward_rejected": rewards[1],
                "margin": margin,
                "weight": 1 / (1 + math.exp(margin)),
                "logp_chosen": w,
                "logp_rejected": l,
                "ref_logp_chosen": ref_w,
                "ref_logp_rejected": ref_l,
                "length_chosen": 20 + i % 7,
                "length_rejected": 20 + i % 5,
            }
        )
    return rows


def metrics_rows(rng: random.Random) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(STEPS + 1):
        done = 1 - math.exp(-2.5 * step / STEPS)
        margin, accuracy = 0.9 * done, 0.5 + 0.24 * done
        if step:
            noise = rng.gauss(0, 0.05)
            rows.append(
                {
                    "step": step,
                    "epoch": step / STEPS,
                    "loss": 0.693 - 0.2 * done + noise,
                    "rewards/chosen": 0.25 * done + noise,
                    "rewards/rejected": -0.65 * done - noise,
                    "rewards/margins": margin + 2 * noise,
                    "rewards/accuracies": min(1.0, accuracy + 1.5 * noise),
                    "logps/chosen": -40 + 2.5 * done + 20 * noise,
                    "logps/rejected": -40 - 6.5 * done - 20 * noise,
                    "grad_norm": 2.0 + abs(rng.gauss(0, 0.6)),
                    "learning_rate": 1e-5 * min(step / 20, (STEPS + 1 - step) / 180),
                    "tokens_per_second": 4100.0,
                    "pairs_per_second": 25.0,
                    "seconds": 0.4,
                }
            )
        if step % 20 == 0:
            values = {
                "loss": 0.6931 - 0.15 * done,
                "rewards/chosen": 0.2 * done,
                "rewards/rejected": -0.5 * done,
                "rewards/margins": 0.7 * done,
                "rewards/accuracies": 0.5 + 0.2 * done,
                "logps/chosen": -40 + 2 * done,
                "logps/rejected": -40 - 5 * done,
                "kl": 6 * done,
            }
            rows.append({"step": step, **{f"eval/{k}": v for k, v in values.items()}})
    return rows


def sample_rows() -> list[dict[str, Any]]:
    return [
        {
            "step": STEPS,
            "prompt": f"The acting in film {i}",
            "reference": TEXTS[i % 5],
            "policy": TEXTS[(i + 2) % 5],
            "reference_score": -0.2 + 0.1 * i,
            "policy_score": 0.8 + 0.1 * i,
        }
        for i in range(8)
    ]


def make_run(folder: Path, *, pairs: int = 500, true_reward: bool = False) -> Path:
    """A finished DPO run with everything in it."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"stage": "dpo", "model": "tiny/reviewer", "data": "pairs.jsonl", "loss": "dpo"}
    recipe |= {"beta": 0.1, "max_steps": STEPS, "learning_rate": 1e-5, "seed": 0, "columns": {}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    environment = {"redpencil": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
    environment |= {"python": "3.11.7", "platform": "Linux", "device": "cpu", "dtype": "float32"}
    environment |= {"threads": 2, "started": "2026-11-21T08:00:00+00:00", "parameters": 1000000}
    environment |= {"command": "redpencil dpo --model tiny/reviewer --data pairs.jsonl --out first"}
    (folder / "environment.json").write_text(json.dumps(environment))
    data = {"source": "pairs.jsonl", "shape": "prompt / chosen / rejected", "rows_read": 4000}
    data |= {"records": 3912, "set_aside": {"identical pair": 61, "empty response": 27}}
    data |= {"train_prompts": 1800, "eval_prompts": pairs // 2, "train_pairs": 3412}
    data |= {"eval_pairs": pairs, "train_responses": 6824, "eval_responses": 2 * pairs}
    data |= {"tokens_padded": 812000, "tokens_distinct": 344000, "truncated_prompts": 3}
    data |= {"notes": ["The tokenizer has no chat template: prompts are plain text."]}
    (folder / "data.json").write_text(json.dumps(data))
    write_lines(folder / "metrics.jsonl", metrics_rows(rng))
    shift = 9.0
    before, after = (make_pairs(pairs, s, random.Random(1), shift=shift) for s in (0, STEPS))
    write_lines(folder / "pairs.jsonl", [*before, *after])
    write_lines(folder / "samples.jsonl", sample_rows())
    dropped = [{"file": "pairs.jsonl", "row": 7 + i, "reason": "identical pair"} for i in range(61)]
    write_lines(folder / "dropped.jsonl", dropped)
    summary: dict[str, Any] = {"status": "done", "steps": STEPS, "seconds": 80.0, "best_step": 200}
    last = [r for r in metrics_rows(random.Random(0)) if "eval/loss" in r]
    for name, row in (("eval_before", last[0]), ("eval_after", last[-1])):
        summary[name] = {k.removeprefix("eval/"): v for k, v in row.items() if k != "step"}
    summary["kl"] = {"mean": 5.5, "stderr": 0.6, "per": "response"}
    if true_reward:
        summary["true_reward"] = {"before": -0.05, "after": 0.84}
        summary["true_reward"] |= {"stderr_before": 0.05, "stderr_after": 0.04}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "first", true_reward=True)


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder of its own for a test that changes it."""
    return lambda **options: make_run(tmp_path / "run", **options)
