"""Made-up run folders that look like real ones."""

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from redpencil.notebook.schema import PAIR_SCHEMA, PAIRS, TOKEN_SCHEMA, TOKENS, part_name

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


MEASURED = range(0, STEPS + 1, 40)
"""Steps at which the notebook's pairs were measured."""


def add_notebook(folder: Path, *, trained: int = 60) -> Path:
    """Gives a run the notebook, with some pairs of each kind, token views of ten pairs, suspect
    labels and data findings."""
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text("utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "eval"]
    for step in (0, STEPS):
        at_step = (row for row in rows if row["step"] == step)
        for i, row in enumerate(at_step):
            row["pair"] = i
    rng = random.Random(3)
    sample = make_pairs(trained, STEPS, rng, shift=9.0)
    sample = [{**row, "split": "train", "pair": 10 * i} for i, row in enumerate(sample)]
    write_lines(folder / "pairs.jsonl", [*rows, *sample])
    (folder / PAIRS).mkdir(exist_ok=True)
    last = [row for row in rows if row["step"] == STEPS]
    for step in MEASURED:
        measured = [_measured(row, step, step / STEPS) for row in last]
        if step:
            measured += [_measured(row, step - 3, rng.random()) for row in sample]
        table = pa.Table.from_pylist(measured, PAIR_SCHEMA)
        parquet.write_table(table, folder / PAIRS / part_name(step))
    _add_tokens(folder, last[:10])
    _add_suspects(folder, [last[0], last[3], sample[1]])
    _add_findings(folder)
    return folder


def _measured(row: dict[str, Any], step: int, share: float) -> dict[str, Any]:
    """A pair's numbers on the way: beyond half the way those of every third pair turn round."""
    turned = -1 if row["pair"] % 3 == 0 and 0 < share < 0.5 else 1
    made = {name: row[name] for name in PAIR_SCHEMA.names if name in row}
    for side in ("chosen", "rejected"):
        moved = share * turned * (row[f"logp_{side}"] - row[f"ref_logp_{side}"])
        made[f"logp_{side}"] = row[f"ref_logp_{side}"] + moved
        made[f"reward_{side}"] = 0.1 * moved
    margin = made["reward_chosen"] - made["reward_rejected"]
    return made | {"step": step, "margin": margin, "weight": 1 / (1 + math.exp(margin))}


def _add_tokens(folder: Path, rows: list[dict[str, Any]]) -> None:
    rng = random.Random(4)
    made = []
    for row in rows:
        for side in ("chosen", "rejected"):
            words = row[side].split(" ")
            pieces = [words[0], *(f" {word}" for word in words[1:])]
            nats = [rng.gauss(0, 1) for _ in pieces]
            made.append({"split": "eval", "pair": row["pair"], "side": side})
            made[-1] |= {"tokens": pieces, "logratio": nats}
    parquet.write_table(pa.Table.from_pylist(made, TOKEN_SCHEMA), folder / TOKENS)


def _add_suspects(folder: Path, rows: list[dict[str, Any]]) -> None:
    names = ("file", "row", "prompt", "chosen", "rejected")
    suspects = [
        {**{name: row[name] for name in names}, "probability": 0.05 * (i + 1)}
        for i, row in enumerate(rows)
    ]
    elsewhere = {"file": "other.jsonl", "row": 7, "prompt": "Of no pair of this run."}
    suspects.append({**elsewhere, "chosen": "one", "rejected": "two", "probability": 0.3})
    write_lines(folder / "suspects.jsonl", suspects)
    how = {"method": "logistic regression", "folds": 5, "pairs": 3912, "expected_wrong": 5.5}
    (folder / "suspects.json").write_text(json.dumps(how | {"threshold": 0.5}))


def _add_findings(folder: Path) -> None:
    common = {"group": "structure", "of": 4000, "example": "", "why": "It matters.", "rows": []}
    findings = [
        {"key": "length-bias", "severity": "note", "title": "Longer is chosen", "count": 2100},
        {"key": "duplicate", "severity": "warning", "title": "Rows twice", "count": 61},
    ]
    findings = [{**common, "text": f["title"], "advice": "Read them.", **f} for f in findings]
    findings[1]["rows"] = [{"file": "pairs.jsonl", "row": n} for n in (7, 8)]
    (folder / "findings.json").write_text(json.dumps({"version": 1, "findings": findings}))


NASTY = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\u202eright to left\u202c \u200f",
    "x" * 100_000,
    "NUL \x00 and bell \x07",
    "\ud800 a lone surrogate",
    "한국어 🎬 &amp; \u2028 \u2029",
    "{{ 7 * 7 }} {% raw %}",
]


def _spoil(folder: Path) -> None:
    """Puts nasty texts into every field of a run that a page shows."""
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= dict.fromkeys(("prompt", "chosen", "rejected", "file"), NASTY[i % len(NASTY)])
    samples = [{"prompt": t, "reference": t, "policy": t} for t in NASTY]
    suspects = [
        {**dict.fromkeys(("file", "prompt", "chosen", "rejected"), t), "row": i, "probability": 0.1}
        for i, t in enumerate(NASTY)
    ]
    for name, lines in (("pairs", rows), ("samples", samples), ("suspects", suspects)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    data = json.loads((folder / "data.json").read_text())
    data |= {"source": NASTY[0], "shape": NASTY[1], "notes": NASTY}
    data["set_aside"] = {text: i + 1 for i, text in enumerate(NASTY)}
    findings = [
        {
            **dict.fromkeys(("title", "text", "example", "why", "advice", "severity", "key"), t),
            "rows": [{"file": t, "row": t}],
            "count": 1,
        }
        for t in NASTY
    ]
    files = {
        "data": data,
        "environment": dict.fromkeys(
            ("command", "started", "device", "platform", "torch"), NASTY[1]
        ),
        "findings": {"findings": findings},
        "suspects": {"method": NASTY[0], "folds": NASTY[0]},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    recipe = {
        "stage": "dpo",
        "loss": "dpo",
        "model": NASTY[1],
        "data": NASTY[0],
        NASTY[0]: NASTY[2],
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    sides = [
        {"split": "eval", "pair": i, "side": side, "tokens": _utf8([t, t]), "logratio": [1.0, -1.0]}
        for i, t in enumerate(NASTY)
        for side in ("chosen", "rejected")
    ]
    parquet.write_table(pa.Table.from_pylist(sides, TOKEN_SCHEMA), folder / TOKENS)


def _utf8(texts: list[str]) -> list[str]:
    """Parquet holds no lone surrogate."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync", "--no-zygote"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str | None:
    """A Chromium: the one that REDPENCIL_CHROMIUM names, else one on the PATH."""
    named = os.environ.get("REDPENCIL_CHROMIUM")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = chromium()
    with playwright.sync_playwright() as running:
        path = found or running.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium on this machine (REDPENCIL_CHROMIUM may name one)")
        opened = running.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page, keeps what it complains of and asks for, and sees that it complained of
    nothing."""
    opened = []

    def open_one(url: str, width: int = 1200, **options: Any) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.set_default_timeout(240_000)
        page.complaints, page.requested = [], []
        page.on("console", lambda m: page.complaints.append(m.text))
        page.on("pageerror", lambda e: page.complaints.append(str(e)))
        page.on("request", lambda r: page.requested.append(r.url))
        opened.append(page)
        page.goto(url)
        page.wait_for_selector("html[data-drawn]", timeout=240_000)
        return page

    yield open_one
    complaints = [complaint for page in opened for complaint in page.complaints]
    for page in opened:
        page.close()
    assert complaints == []


@pytest.fixture(scope="session")
def noted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a notebook."""
    return add_notebook(make_run(tmp_path_factory.mktemp("runs") / "noted", true_reward=True))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "first", true_reward=True)


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder of its own for a test that changes it."""
    return lambda **options: make_run(tmp_path / "run", **options)


@pytest.fixture
def noted_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run folder with a notebook for a test that changes it."""
    return lambda name="run", **options: add_notebook(make_run(tmp_path / name, **options))


@pytest.fixture
def spoil() -> Callable[[Path], None]:
    """Puts nasty texts into every field of a run."""
    return _spoil
