"""The run folder: what may be written where, and whether a folder is new, resumable or foreign."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import yaml

from redpencil.errors import RunFolderError
from redpencil.recipes.stages import Recipe
from redpencil.types import Dropped

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)

FREE_TO_CHANGE = frozenset(
    {
        "out",
        "keep_checkpoints",
        "checkpoint_every",
        "log_every",
        "max_tokens",
        "activation_checkpointing",
    }
)
"""Options that a resumed run may give otherwise: none changes what is computed beyond rounding."""


BY_MEMORY = ("max_tokens", "activation_checkpointing")
"""Options whose "auto" is resolved by the free memory, once."""


def _open(option: str, value: object) -> bool:
    return value is None or (option in BY_MEMORY and value == "auto")


PREFERRED_FT = "preferred-ft"
"""The folder inside a run where its reference was fitted to the preferred completions."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run. Nothing here is written until a method says so."""

    path: Path

    @classmethod
    def at(cls, out: str) -> "RunFolder":
        """The folder for a run at `out`. Raises RunFolderError when something else lies there."""
        folder = cls(Path(out))
        if folder.path.exists() and not folder.path.is_dir():
            raise RunFolderError(f"--out {out} is a file; name a folder")
        # A run that was stopped while its reference was fitted holds nothing else yet.
        inside = {p.name for p in folder.path.iterdir()} if folder.path.is_dir() else set()
        inside = {name for name in inside if not name.endswith(".partial")}
        if inside - {PREFERRED_FT} and not folder.recipe.is_file():
            raise RunFolderError(
                f"--out {out} is not empty and not a run of redpencil; nothing was written; "
                "name a new folder"
            )
        return folder

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def finished(self) -> bool:
        return self.summary.is_file() and (self.model / "config.json").is_file()

    def read(self, name: str) -> dict[str, Any]:
        """One JSON file of the run."""
        content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return content

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """One JSON-lines file of the run; empty where there is none."""
        path = self.path / name
        if not path.is_file():
            return []
        # Not splitlines(): texts may hold U+2028, which JSON leaves as it is.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        self._replace(name, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self._replace(name, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def write_dropped(self, dropped: Iterable[Dropped]) -> None:
        self.write_rows(
            "dropped.jsonl",
            (
                {"file": d.origin.file, "row": d.origin.row, "reason": d.reason, "detail": d.detail}
                for d in dropped
            ),
        )

    def write_recipe(self, recipe: Recipe) -> None:
        self._replace("recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False))

    def resumed(self, recipe: AnyRecipe) -> AnyRecipe:
        """The recipe, with what it leaves open as it was resolved the first time.

        Raises RunFolderError when the folder holds a run that was asked for otherwise.
        """
        try:
            stored = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            stored = None
        if not isinstance(stored, dict):
            raise RunFolderError(f"{self.recipe} is damaged; name another --out")
        asked = {k: v for k, v in recipe.model_dump().items() if not _open(k, v)}
        # An option that is younger than the run had its default's effect.
        younger = {k: f.default for k, f in type(recipe).model_fields.items() if k not in stored}
        differing = [
            f"--{key.replace('_', '-')} was {was!r} and is now {value!r}"
            for key, value in asked.items()
            if key not in FREE_TO_CHANGE and (was := stored.get(key, younger.get(key))) != value
        ]
        if differing:
            raise RunFolderError(
                f"{self.path} holds a run of another recipe: {'; '.join(differing)}; name another "
                "--out, or repeat the first command to go on with it"
            )
        return recipe.model_copy(update={k: v for k, v in stored.items() if k not in asked})

    def refuse_other_start(self, **fingerprints: str) -> None:
        """Raise RunFolderError when the run began on other token ids (`data`) or other weights
        (`model`, `reward`) than it would go on with."""
        if (self.path / "data.json").is_file():
            stored = self.read("data.json")
            for what, fingerprint in fingerprints.items():
                if stored.get(f"{what}_fingerprint", fingerprint) != fingerprint:
                    raise RunFolderError(
                        f"the {what} of {self.path} changed since the run began; name another --out"
                    )

    def _replace(self, name: str, text: str | Iterable[str]) -> None:
        """Write a file whole or not at all; a text in pieces is never held as a whole."""
        self.path.mkdir(parents=True, exist_ok=True)
        scratch = self.path / f".{name}.partial"
        with scratch.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines([text] if isinstance(text, str) else text)
        os.replace(scratch, self.path / name)


def _command() -> dict[str, str]:
    """The command line that began the run, for a shell; nothing where another program did."""
    program, *arguments = sys.argv
    parts = Path(program).parts  # python -m redpencil
    as_module = parts[-2:] == ("redpencil", "__main__.py") or parts[-3:] == (
        "redpencil",
        "cli",
        "main.py",
    )
    if Path(program).stem != "redpencil" and not as_module:
        return {}
    return {"command": shlex.join(["redpencil", *arguments])}


def environment(**facts: object) -> dict[str, object]:
    """What a run was computed with, for `environment.json`."""
    import torch

    packages = {name: version(name) for name in ("redpencil", "torch", "transformers")}
    return {
        **packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **_command(),
        **facts,
    }
