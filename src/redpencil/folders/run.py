"""The run folder: what may be written where, and whether a folder is new, resumable or foreign."""

import json
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import yaml

from redpencil.console import warn_once
from redpencil.errors import RunFolderError
from redpencil.locks import LOCK, alone
from redpencil.models.locate import SEAL
from redpencil.notebook.schema import PAIRS
from redpencil.places import PARTIAL, checksums, path_of, whole_file
from redpencil.recipes.stages import Recipe, make_recipe
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


_LEFT_BEHIND = re.compile(
    r"\.(model|adapter|tokenizer|tried|step-\d+|part-\d+\.parquet|[\w-]+\.(jsonl?|yaml|html|parquet))"
    r"(\.[a-z0-9_]{8}|\.gone)?\.partial"
    r"|\.(model|adapter)-[a-z0-9_]{8}(-old)?"  # by earlier versions
)
"""Names of what was not whole yet, or is no longer, when its command was killed."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run. Nothing here is written until a method says so."""

    path: Path

    @classmethod
    def at(cls, out: str) -> "RunFolder":
        """The folder for a run at `out`. Raises RunFolderError when something else lies there."""
        folder = cls(path_of(out))
        if folder.path.exists() and not folder.path.is_dir():
            raise RunFolderError(f"--out {out} is a file; name a folder")
        # A run that was stopped while its reference was fitted holds nothing else yet.
        inside = {p.name for p in folder.path.iterdir()} if folder.path.is_dir() else set()
        inside = {name for name in inside if name != LOCK and not name.endswith(PARTIAL)}
        if inside - {PREFERRED_FT} and not folder.recipe.is_file():
            raise RunFolderError(
                f"--out {out} is not empty and not a run of redpencil; nothing was written; "
                "name a new folder"
            )
        return folder

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other command writes into the folder; what a killed one left half done is
        removed first. Raises RunFolderError where another command has it."""
        with alone(self.path):
            self._clean()
            yield

    def _clean(self) -> None:
        """Remove what killed commands were about to write or to remove, by our own names alone."""
        steps = self.checkpoints.glob("step-*")
        for folder in (self.path, self.checkpoints, *steps, self.path / PAIRS):
            for path in folder.iterdir() if folder.is_dir() else ():
                if _LEFT_BEHIND.fullmatch(path.name):
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def tokenizer(self) -> Path:
        """All of the model folder but weights and card, from the start of the run on."""
        return self.path / "tokenizer"

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
        """One JSON file of the run. Raises RunFolderError where it is not there or damaged."""
        path = self.path / name
        with _there(path):
            return _object(path, path.read_bytes())

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """One JSON-lines file of the run; empty where there is none. Raises RunFolderError where it
        is damaged."""
        path = self.path / name
        if not path.exists():
            return []
        with _there(path):  # Not splitlines(): texts may hold U+2028, which JSON leaves as it is.
            lines = path.read_bytes().split(b"\n")
        return [_object(path, line, f"line {n}") for n, line in enumerate(lines, 1) if line]

    def read_or_warn(self, name: str) -> dict[str, Any] | None:
        """A JSON file of what a run measured on its way; where it is lost, that is said, and the
        run goes on without it: it is worth less than the run."""
        try:
            return self.read(name)
        except RunFolderError as error:
            warn_once(f"{error}; the run goes on without what it held")
            return None

    def read_rows_or_warn(self, name: str) -> list[dict[str, Any]]:
        """The same of a JSON-lines file."""
        try:
            return self.read_rows(name)
        except RunFolderError as error:
            warn_once(f"{error}; the run goes on without what it held")
            return []

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        self._replace(name, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self._replace(name, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def seal(self) -> None:
        """Write down the checksums of the final model's files: whoever loads it from here sees that
        it is what the run wrote (`models.locate.require_unchanged`)."""
        whole = (self.model, self.path / "adapter")
        files = sorted(p for folder in whole if folder.is_dir() for p in folder.rglob("*"))
        names = [p.relative_to(self.path).as_posix() for p in files if p.is_file()]
        self.write(SEAL, checksums(self.path, names))

    def write_dropped(self, dropped: Iterable[Dropped]) -> None:
        self.write_rows(
            "dropped.jsonl",
            (
                {"file": d.origin.file, "row": d.origin.row, "reason": d.reason, "detail": d.detail}
                for d in dropped
            ),
        )

    def write_recipe(self, recipe: Recipe) -> None:
        self._replace(
            "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        )

    def resumed(self, recipe: AnyRecipe) -> AnyRecipe:
        """The recipe, with what it leaves open as it was resolved the first time.

        Raises RunFolderError when the folder holds a run that was asked for otherwise.
        """
        stored = self.stored_recipe().model_dump(mode="json")
        asked = {k: v for k, v in recipe.model_dump(mode="json").items() if not _open(k, v)}
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

    def stored_recipe(self) -> Recipe:
        """What `recipe.yaml` says. Raises RunFolderError, RecipeError where it is damaged."""
        try:
            with _there(self.recipe):
                stored = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError):
            stored = None
        if not isinstance(stored, dict) or "stage" not in stored:
            raise RunFolderError(f"{self.recipe} is damaged: it names no stage")
        if stored.get("eval_data") is not None:  # a resolved recipe holds both; this one counts
            stored.pop("eval_fraction", None)
        return make_recipe(stored.pop("stage"), stored, where=str(self.recipe), stored=True)

    def refuse_other_start(self, **fingerprints: str) -> None:
        """Raise RunFolderError when the run began on other token ids (`data`) or other weights
        (`model`, `reward`) than it would go on with."""
        if (self.path / "data.json").exists():
            stored = self.read("data.json")
            for what, fingerprint in fingerprints.items():
                if stored.get(f"{what}_fingerprint", fingerprint) != fingerprint:
                    raise RunFolderError(
                        f"the {what} of {self.path} changed since the run began; name another --out"
                    )

    def _replace(self, name: str, text: str | Iterable[str]) -> None:
        """Write a file whole or not at all; a text in pieces is never held as a whole."""
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path / name) as file:
            file.writelines([text] if isinstance(text, str) else text)


@contextmanager
def _there(path: Path) -> Iterator[None]:
    """Inside, a file that is not there or is a folder is damage of the run."""
    try:
        yield
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing") from None
    except (IsADirectoryError, NotADirectoryError):
        raise RunFolderError(f"{path} is damaged: it is a folder") from None


def _object(path: Path, content: bytes, where: str = "it") -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise RunFolderError(f"{path} is damaged: {where} is not a JSON object")
    return parsed


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
