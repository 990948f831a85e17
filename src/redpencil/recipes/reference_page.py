"""`make docs`: the page of options, written from the recipes so that it cannot fall behind.

python -m redpencil.recipes.reference_page docs/options.md
"""

import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from redpencil.recipes.asking import GenerateRecipe, JudgeRecipe
from redpencil.recipes.stages import STAGES, Recipe

POSITIONAL = ("model", "a", "b")
"""What `generate` and `judge` take without a flag."""


def options_page() -> str:
    """Markdown: a table of the options of every stage, shared ones first."""
    parts = [
        "# Options",
        "",
        "Written by `make docs` from the recipes; every option is a flag of the command "
        "(`--batch-size`), a key of a recipe file (`batch_size`) and a field in Python.",
        "",
        "## All stages",
        "",
        *_table(Recipe, skip={"stage"}),
    ]
    for name, kind in STAGES.items():
        parts += ["", f"## {name}", "", _first_sentence(kind), ""]
        full, adapters = kind.DEFAULT_LEARNING_RATE
        parts.append(f"Default learning rate: {full:g}, and {adapters:g} with adapters.")
        own = _table(kind, skip=set(Recipe.model_fields))
        if len(own) > 2:
            parts += ["", *own]
    for name, asked in (("generate", GenerateRecipe), ("judge", JudgeRecipe)):
        parts += ["", f"## {name}", "", _first_sentence(asked), ""]
        parts += _table(asked, skip={"stage", *POSITIONAL})
    return "\n".join(parts) + "\n"


def _first_sentence(kind: type[BaseModel]) -> str:
    return (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()


def _table(kind: type[BaseModel], *, skip: set[str]) -> list[str]:
    rows = [
        f"| `{name}` | {_default(field)} | {field.description} |"
        for name, field in kind.model_fields.items()
        if name not in skip
    ]
    return ["| option | default | meaning |", "| --- | --- | --- |", *rows]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default is None:
        return "–"
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return f"`{field.default}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(options_page(), encoding="utf-8")
