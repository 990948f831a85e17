"""The two sides of a judgement: where A's and B's answers come from, and to which prompts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redpencil.console import say, warn
from redpencil.data.chat import template_clock, use_separator
from redpencil.data.contents import Row, SetAside, text_or_turns
from redpencil.data.formats import format_of
from redpencil.data.prompts import load_prompts, prompt_rows
from redpencil.data.records import load_records
from redpencil.data.sources import Spec, named, specs_of
from redpencil.data.split import fraction_of, split_by_prompt
from redpencil.data.tokenize import tokenize_records
from redpencil.errors import DataError, RecipeError, did_you_mean
from redpencil.folders.targets import check_target, model_folder, run_recipe
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.places import path_of
from redpencil.recipes.asking import JudgeRecipe
from redpencil.recipes.stages import Recipe, RlRecipe
from redpencil.types import Content, Origin
from redpencil.use.api import load
from redpencil.use.completing import complete, ids_of_rows
from redpencil.use.labelling import Asked, asked_of, key_of, tell_set_aside

COLUMN = "data:"
"""A side that is a column of the data: `data:chosen`."""


def answers(recipe: JudgeRecipe) -> list[dict[str, Any]]:
    """One JSON-ready row for each prompt that both sides answer: `prompt`, `a`, `b`, where it came
    from (`file`, `row`), and the data row (`columns`). Raises UserError."""
    if not any(_is_model(side) for side in (recipe.a, recipe.b)):
        for name in ("temperature", "max_new_tokens", "chat_template", "separator"):
            if name in recipe.model_fields_set:
                flag = name.replace("_", "-")
                raise RecipeError(f"--{flag} does nothing here: neither side is a model")
    for side in (recipe.a, recipe.b):
        if _is_model(side):  # both, before one of them answers in vain
            check_target(side, trust_remote_code=recipe.trust_remote_code)
    sides = {name: getattr(recipe, name) for name in "ab"}
    asked = _asked(recipe)
    found = {}
    for name in sorted(sides, key=lambda name: _is_model(sides[name])):  # what is read comes first
        found[name] = _side(sides[name], name.upper(), asked, recipe)
    rows = []
    for one, a, b in zip(asked, found["a"], found["b"], strict=True):
        if a is None or b is None:
            continue
        content = one.content
        rows.append(
            {
                "file": one.origin.file,
                "row": one.origin.row,
                "prompt": content if isinstance(content, str) else list(content),
                "a": a,
                "b": b,
                # What JSON cannot say (a date in a Parquet file) is kept as its text.
                "columns": json.loads(json.dumps(dict(one.row), default=str)),
            }
        )
    if not rows:
        raise DataError("there is no prompt that both sides answer")
    return rows


def _asked(recipe: JudgeRecipe) -> list[Asked]:
    """The prompts, each once."""
    run = None if recipe.a.startswith(COLUMN) else run_recipe(recipe.a)
    if recipe.data is not None:
        asked = list(
            map(asked_of, tell_set_aside(prompt_rows(recipe.data, recipe.columns or None)))
        )
        if run is not None and _paths(run.data) & _paths(recipe.data):
            warn(
                f"{recipe.a} was trained on {named(run.data)}; without --data its held-out prompts "
                "count"
            )
    elif run is None:
        raise RecipeError(f"{recipe.a} is no run that held out prompts; name some by --data")
    elif recipe.columns:
        raise RecipeError("--columns does nothing without --data")
    else:
        with template_clock(run.template_date):
            asked = _held_out(recipe.a, run)
    distinct: dict[str, Asked] = {}
    for one in asked:
        distinct.setdefault(key_of(one), one)
    return list(distinct.values())[: recipe.limit]


def _paths(spec: Spec) -> set[Path]:
    return {path_of(one).resolve() for one in specs_of(spec)}


def _held_out(name: str, run: Recipe) -> list[Asked]:
    """The prompts that a run was evaluated on, found as the run found them."""
    source = run.eval_data or run.data
    folder, remote = model_folder(name), run.trust_remote_code
    tokenizer = load_tokenizer(folder, trust_remote_code=remote)
    longest = run.max_length or context_length(folder, trust_remote_code=remote)
    columns = run.columns or None
    rows = prompt_rows(source, columns).rows
    if isinstance(run, RlRecipe):
        prompts = load_prompts(
            source,
            tokenizer,
            room=longest - run.max_new_tokens,
            columns=columns,
        ).prompts
        if run.eval_data is None:
            fraction = fraction_of(run.eval_fraction, len(prompts))
            _, prompts = split_by_prompt(prompts, fraction=fraction, seed=run.seed)
        kept = {p.prompt_key for p in prompts}
    else:
        purpose: Any = "sft" if run.stage == "sft" else "preference"
        tokens = tokenize_records(
            load_records(source, purpose=purpose, columns=columns).records,
            tokenizer,
            max_length=longest,
        )
        examples = tokens.examples
        if run.eval_data is None:
            counted = (e.responses if run.stage == "sft" else e.comparisons for e in examples)
            fraction = fraction_of(run.eval_fraction, sum(map(len, counted)))
            _, examples = split_by_prompt(examples, fraction=fraction, seed=run.seed)
        kept = {e.prompt_key for e in examples}
    return [asked_of(row) for row in rows if row.prompt_key in kept]


def _is_file(spec: str) -> bool:
    return Path(spec).is_file() and format_of(spec) is not None


def _is_model(spec: str) -> bool:
    return not spec.startswith(COLUMN) and not _is_file(spec)


def _side(spec: str, name: str, asked: Sequence[Asked], recipe: JudgeRecipe) -> list[str | None]:
    """The answers of one side; None where it has none."""
    if spec.startswith(COLUMN):
        found = _of_column(spec.removeprefix(COLUMN), asked)
        reason = f"have no {spec}"
    elif _is_file(spec):
        found = _of_file(spec, asked)
        reason = f"have no answer in {spec}"
    else:
        found = _of_model(spec, name, asked, recipe)
        reason = f"leave {spec} no room for an answer"
    if missing := found.count(None):
        say(f"{missing:,} of {len(asked):,} prompts {reason} and are left out")
    return found


def _of_column(column: str, asked: Sequence[Asked]) -> list[str | None]:
    """What a column answers, read as training reads it; of a whole dialogue the last answer."""
    if not any(column in a.row for a in asked):
        names = {name for a in asked for name in a.row}
        raise DataError(f"the data has no column {column!r}{did_you_mean(column, names)}")
    return [
        _text(a.answers[column]) if column in a.answers else _cell(a.row, a.origin, column)
        for a in asked
    ]


def _of_file(file: str, asked: Sequence[Asked]) -> list[str | None]:
    """Answers written before, by `generate` say; of several to one prompt the first."""
    found: dict[str, str | None] = {}
    for one in prompt_rows(file).rows:
        row = one.row
        column = next((c for c in ("responses", "response", "completion") if c in row), None)
        if column is None:
            raise DataError(f'{one.origin}: no column "responses"{did_you_mean("responses", row)}')
        found.setdefault(one.prompt_key, _cell(row, one.origin, column))
    return [found.get(key_of(a)) for a in asked]


def _cell(cells: Mapping[str, Any], origin: Origin, column: str) -> str | None:
    """The answer in a cell: text, messages, or the first of several."""
    value = cells.get(column)
    if isinstance(value, list) and value and not isinstance(value[0], Mapping):
        value = value[0]
    if value is None or value == []:
        return None
    try:
        return _text(text_or_turns(Row(origin, cells), column, value))
    except SetAside as aside:
        raise DataError(f'{origin}, column "{column}": {aside.reason}: {aside.detail}') from aside


def _text(content: Content) -> str | None:
    """What an answer says; of turns the last of the assistant."""
    if isinstance(content, str):
        return content
    said = [t["content"] for t in content if t["role"] == "assistant"]
    return str(said[-1]) if said else None


def _of_model(
    spec: str, name: str, asked: Sequence[Asked], recipe: JudgeRecipe
) -> list[str | None]:
    run = run_recipe(spec)
    remote = recipe.trust_remote_code or (run is not None and run.trust_remote_code)
    loaded = load(spec, trust_remote_code=remote)
    use_separator(loaded.tokenizer, recipe.separator, recipe.chat_template)
    ids = ids_of_rows(loaded, asked, recipe.chat_template)
    fits = [i for i, p in enumerate(ids) if len(p) + recipe.max_new_tokens <= loaded.context_length]
    if not fits:
        raise RecipeError(
            f"--max-new-tokens {recipe.max_new_tokens} leaves no prompt room within the "
            f"{loaded.context_length} tokens of {spec}"
        )
    texts = complete(
        loaded,
        [ids[i] for i in fits],
        num=1,
        temperature=recipe.temperature,
        max_new_tokens=recipe.max_new_tokens,
        chat_template=recipe.chat_template,
        seed=recipe.seed,
        what=f"answers of {name}",
    )
    by_index = dict(zip(fits, texts, strict=True))
    return [by_index[i][0] if i in by_index else None for i in range(len(asked))]
