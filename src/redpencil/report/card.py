"""A model's card: what it was trained from and on, what was measured with what certainty, what to
worry about, and how to use it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from redpencil.report.change import loss_change
from redpencil.report.estimates import Share, clustered_mean, clustered_share
from redpencil.report.rows import read_mapping
from redpencil.report.rundata import RunData, number, read_run
from redpencil.report.verdict import held_out_accuracy, judge
from redpencil.report.wording import NBSP, count, nats, percent, percent_range, short, with_half

_ROWS = (
    ("rewards/accuracies", "pairs in order"),
    ("rewards/margins", "mean margin"),
    ("reward", "reward"),
    ("objective", "reward less β times the KL"),
    ("loss", "loss"),
    ("perplexity", "perplexity"),
    ("kl", "KL from the reference, nats a response"),
    ("length", "tokens of an answer"),
    ("finished", "answers that end"),
)
_SHARES = ("rewards/accuracies", "finished")
_NATS = ("rewards/margins", "reward", "objective", "kl")

_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
{prompt}
output = model.generate(**inputs, max_new_tokens=128, do_sample=True)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
_CHAT = """messages = [{"role": "user", "content": "Why is the sky blue?"}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)"""
_PLAIN = 'inputs = tokenizer("Why is the sky blue?", return_tensors="pt")'
_USE_REWARD = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSequenceClassification.from_pretrained("{name}")
inputs = tokenizer("a prompt and its answer, as one text", return_tensors="pt")
reward = model(**inputs).logits[0, 0].item()  # only differences between answers mean something
```"""


def model_card(
    folder: Path, step: str, *, name: str, chat: bool, summary: Mapping[str, Any] | None = None
) -> str:
    """README.md of a model folder. folder: the run's; step: "last", "best" or a number; name: of
    the model folder, for the example; chat: whether its tokenizer has a chat template; summary: of
    a run that is about to end. Raises RunFolderError."""
    run = read_run(folder)
    if summary is not None:
        run = replace(run, summary=dict(summary))
    at = {"last": run.steps, "best": run.best_step}.get(step) or int(step)
    last = at == run.steps
    parts = [_head(run), f"# {run.name}", _origin(run, at), _best(run, at)]
    parts += ["## Use", _use(run, name, chat)]
    measured = _measured(run, None if last else at)
    if measured:
        parts += ["## Held out", *measured]
    if last and run.finished:
        verdict = judge(run)
        worries = "\n".join(f"- {f.title}: {f.text}" for f in verdict.worries)
        parts += [f"{verdict.headline}. {' '.join(verdict.sentences)}"]
        parts += ["### What to worry about", worries] if worries else []
    parts += ["## Recipe", f"```yaml\n{_recipe(run)}\n```"]
    return "\n\n".join(part for part in parts if part).replace(NBSP, " ") + "\n"


def base_of(model: str) -> str | None:
    """The Hub's name of what a model was trained from, through runs that were trained from each
    other; None where that is a folder of somebody's own."""
    seen: set[Path] = set()
    while True:
        path = Path(model).expanduser()
        for part in path.parts:
            if part.startswith("models--"):  # a snapshot in the Hub's own cache
                return part.removeprefix("models--").replace("--", "/")
        if not path.exists():
            return model if model.count("/") <= 1 and not model.startswith((".", "/")) else None
        if path.resolve() in seen:
            return None
        seen.add(path.resolve())
        named = _before(path)
        if named is None:
            return None
        model = named


def _before(path: Path) -> str | None:
    """What the model in a folder was trained from, as the run says that made it."""
    for run in (path, path.parent):
        recipe = read_mapping(run / "recipe.yaml", yaml.safe_load, [])
        if recipe and isinstance(recipe.get("model"), str):
            return str(recipe["model"])
    adapter = read_mapping(path / "adapter_config.json", json.loads, [])
    base = (adapter or {}).get("base_model_name_or_path")
    return base if isinstance(base, str) else None


def _head(run: RunData) -> str:
    base = base_of(str(run.recipe.get("model", "")))
    task = "text-classification" if run.is_reward else "text-generation"
    facts: dict[str, Any] = {"base_model": base, "base_model_relation": "finetune"} if base else {}
    facts |= {"library_name": "transformers", "pipeline_tag": task}
    facts["tags"] = ["redpencil", "preference-optimization", run.stage]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False).rstrip()}\n---"


def _origin(run: RunData, at: int) -> str:
    """What it was trained from, on how much, for how long."""
    model = str(run.recipe.get("model", ""))
    base = base_of(model)
    own = Path(model).expanduser().exists()
    from_ = f"`{base}`" if base else f"a model of its author's own (`{Path(model).name}`)"
    via = f" by way of `{Path(model).name}`" if base and own else ""
    version = run.environment.get("redpencil")
    by = f"redpencil{f' {version}' if version else ''} ({run.stage}"
    loss = run.recipe.get("loss")
    by += f", {loss})" if loss and loss != run.stage else ")"
    amounts = [
        count(n, thing)
        for thing in ("pair", "response", "prompt")
        if (n := number(run.data, f"train_{thing}s"))
    ]
    on = f" on {' of '.join(amounts[:1] + amounts[-1:])}" if amounts else ""
    return f"Trained from {from_}{via} by {by}{on}; this is step {at:,} of {run.steps:,}."


def _best(run: RunData, at: int) -> str:
    best = run.best_step
    if best is None or best == at or not run.finished:
        return ""
    measure = "objective" if run.is_rl else "loss"
    if best == 0:
        return f"By the held-out {measure} no step was better than the model it began from."
    return f"By the held-out {measure} the best step of the run was {best:,}."


def _recipe(run: RunData) -> str:
    """The options that were set, without where things lie on its author's disk."""
    told = {}
    for name, value in run.recipe.items():
        if value in (None, "", {}) or name == "out":
            continue
        told[name] = [*map(_named, value)] if isinstance(value, list) else _named(value)
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True).rstrip()


def _named(value: object) -> object:
    here = isinstance(value, str) and Path(value).expanduser().exists()
    return Path(str(value)).name if here else value


def _use(run: RunData, name: str, chat: bool) -> str:
    if run.is_reward:
        return _USE_REWARD.replace("{name}", name)
    return _USE.replace("{name}", name).replace("{prompt}", _CHAT if chat else _PLAIN)


def _measured(run: RunData, at: int | None) -> list[str]:
    """A sentence on what was held out, and a table; at: the step, None for the last."""
    row = {} if at is None else next((r for r in run.evals if r["step"] == at), None)
    if row is None:
        return [f"Step {at:,} was not evaluated."]
    lines = []
    for key, label in _ROWS:
        before, after = run.held_out(key)
        if at is not None:
            after = number(row, f"eval/{key}")
        if after is not None:
            now = _with_interval(run, key, after, at)
            lines.append(f"| {label} | {_said(key, before)} | {now} |")
    if not lines:
        return []
    amounts = [
        count(n, thing if thing == "pair" else f"held-out {thing}")
        for thing in ("pair", "prompt")
        if (n := number(run.data, f"eval_{thing}s"))
    ]
    table = "\n".join(["| | before | after |", "| --- | --- | --- |", *lines])
    return [f"Measured on {' of '.join(amounts)}; intervals are of 95 %." if amounts else "", table]


def _said(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return percent(value) if key in _SHARES else nats(value) if key in _NATS else short(value)


def _with_interval(run: RunData, key: str, value: float, at: int | None) -> str:
    if key == "rewards/accuracies" and (share := _accuracy(run, at)):
        return f"{percent(share.value)} ({percent_range(share.low, share.high)})"
    if key == "rewards/margins" and (found := clustered_mean(_margins(run, at))):
        return with_half(found.value, found.half)
    if key == "loss" and at is None and (change := loss_change(run)):
        return f"{short(value)} (change {with_half(change.value, change.half)})"
    if key == "kl" and at is None:
        return with_half(run.kl, run.kl_half)
    return _said(key, value)


def _accuracy(run: RunData, at: int | None) -> Share | None:
    if at is None:
        return held_out_accuracy(run)
    margins = _margins(run, at)
    outcomes = [(prompt, 0.5 if m == 0 else float(m > 0)) for prompt, m in margins]
    return clustered_share(outcomes) if outcomes else None


def _margins(run: RunData, at: int | None) -> list[tuple[str, float]]:
    """(prompt, margin) of the held-out pairs at a step, None for the latest."""
    if at is None:
        return [(p.prompt, p.margin) for p in run.after if p.margin is not None]
    found = []
    for pair in run.after:
        history = run.histories.get(pair.key)
        margin = dict(history.margins).get(at) if history else None
        if margin is not None:
            found.append((pair.prompt, margin))
    return found
