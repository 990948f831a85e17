"""Every file of a run, damaged in every way, under every command that reads it.

The outcome is the right content, or one sentence that names the file and exit code 2: never a
traceback, never another model than the run wrote.
"""

import io
import itertools
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from redpencil.cli.main import main
from redpencil.models.locate import SEAL

DAMAGES = ("missing", "empty", "cut", "garbage", "flipped", "folder", "unreadable")

TRAIN = (
    "dpo --model BASE --data PAIRS --out RUN --batch-size 16 --max-steps 4 --checkpoint-every 2"
    " --eval-every 2 --learning-rate 1e-3 --eval-fraction 0.2 --max-tokens 2048"
    " --matrix-kernels default --activation-checkpointing off --sample-prompts 2 --sample-tokens 4"
    " --no-cache"
)
COMMANDS = {
    "resume": TRAIN,
    "export": "export RUN OUT/model",
    "export step": "export RUN OUT/model --step 2",
    "export best": "export RUN OUT/model --step best",
    "note": "note RUN --split train",
    "again": "note RUN --again OUT/again.jsonl --kind right",
    "report": "report RUN",
    "eval": "eval RUN --json",
    "generate": "generate RUN --prompt The --max-new-tokens 4 --temperature 0",
    "chat": "chat RUN",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, base, pairs):
    """A finished run, and the same as a kill after its second step left it."""
    place = tmp_path_factory.mktemp("runs")
    finished, unfinished = place / "finished", place / "unfinished"
    names = {"BASE": base, "PAIRS": pairs, "RUN": finished}
    assert main(words(TRAIN, names)) == 0
    shutil.copytree(finished, unfinished)
    for name in ("model", "checkpoints/step-4", "tensorboard"):
        shutil.rmtree(unfinished / name)
    gone = (
        "summary.json",
        SEAL,
        "report.html",
        "tokens.parquet",
        "pairs.parquet/part-00000004.parquet",
    )
    for name in gone:
        (unfinished / name).unlink()
    return {"finished": finished, "unfinished": unfinished, "EXPECTED": {}, **names}


def words(command: str, names: dict[str, Path]) -> list[str]:
    found = []
    for word in command.split():
        first, slash, rest = word.partition("/")
        found.append(f"{names[first]}{slash}{rest}" if first in names else word)
    return found


def files_of(run: Path) -> list[str]:
    names = [p.relative_to(run).as_posix() for p in sorted(run.rglob("*")) if p.is_file()]
    return [name for name in names if not name.startswith("tensorboard/")]


def damage(path: Path, kind: str, monkeypatch) -> None:
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "garbage":
        path.write_bytes(bytes(range(128, 256)) * 8)
    elif kind == "flipped":
        at = len(content) // 2
        content = content or b"\n"
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "unreadable":  # not by its mode, which does not bind the superuser
        for module in (io, os):
            monkeypatch.setattr(module, "open", _refusing(module.open, path))


def _refusing(function, path: Path):
    def tried(name, *args, **options):
        if isinstance(name, str | os.PathLike) and Path(name) == path:
            raise PermissionError(13, "Permission denied", str(name))
        return function(name, *args, **options)

    return tried


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


class Trial:
    """A copy of a run, in which one file is damaged, and what a command makes of it."""

    def __init__(self, runs, tmp_path, monkeypatch, capsys) -> None:
        self.runs, self.place = runs, tmp_path
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.expected = runs["EXPECTED"]
        monkeypatch.setattr("builtins.input", self._end_of_input)

    @staticmethod
    def _end_of_input(*_):
        raise EOFError

    def outcome(self, state: str, command: str, name: str = "", kind: str = ""):
        """(exit code, stdout, stderr, weights that were written)."""
        run, out = self.place / "run", self.place / "out"
        for folder in (run, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.runs[state], run)
        out.mkdir()
        with self.monkeypatch.context() as patch:
            if name:
                damage(run / name, kind, patch)
            code = main(words(COMMANDS[command], {**self.runs, "RUN": run, "OUT": out}))
        said = self.capsys.readouterr()
        wrote = {}
        if code == 0 and command in ("export", "export step", "export best"):
            wrote = weights(out / "model")
        elif code == 0 and command == "resume" and "nothing to do" not in said.out:
            wrote = weights(run / "model")
        return code, said.out, said.err, wrote

    def undamaged(self, state: str, command: str):
        if (state, command) not in self.expected:
            self.expected[state, command] = self.outcome(state, command)
        return self.expected[state, command]

    def verdict(self, state: str, command: str, name: str, kind: str) -> str:
        """What is wrong with the outcome; nothing where it is as it should be."""
        whole = self.undamaged(state, command)
        try:
            code, out, err, wrote = self.outcome(state, command, name, kind)
        except Exception as error:  # what would be a traceback
            self.capsys.readouterr()
            return f"{type(error).__name__}: {error}"[:300]
        last = err.strip().splitlines()[-1] if err.strip() else ""
        if code == 2:
            if err.count("error: ") != 1 or "Traceback" in err:
                return f"not one sentence: {err[-300:]}"
            named = self.place / "run" / name
            shown = [str(named), name, named.name, str(named.parent)]
            shown += (
                ["notebook"] if name.startswith("pairs.parquet") else []
            )  # whose only part it was
            if Path(name).name == "tokenizer.json":  # one that is whole and another
                shown.append("has another tokenizer than")
            if whole[0] == 2 and last == whole[2].strip().splitlines()[-1]:
                return ""  # it is refused for another reason, damaged or not
            return "" if any(each in last for each in shown) else f"names no file: {last}"
        if code != whole[0]:
            return f"exit code {code}, whole {whole[0]}: {last}"
        finished = state == "finished"  # one that lost what says so is finished again, alike
        finished_before = command == "resume" and finished and "nothing to do" in out
        right = (
            weights(self.runs[state] / "model") if command == "resume" and finished else whole[3]
        )
        if not same(wrote, right) and not finished_before:
            return "other weights were written"
        if command in ("eval", "generate") and out != whole[1] and named_in(err, name):
            return f"another answer, without a word: {out[-200:]}"
        return ""


def named_in(err: str, name: str) -> bool:
    return Path(name).name not in err


@pytest.fixture
def trial(runs, tmp_path, monkeypatch, capsys):
    return Trial(runs, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_whole_runs(trial):
    """What the tables compare with."""
    for command in COMMANDS:
        assert trial.undamaged("finished", command)[0] == 0, command
    assert trial.undamaged("unfinished", "resume")[0] == 0
    wrote = trial.undamaged("unfinished", "resume")[3]
    assert same(wrote, weights(trial.runs["finished"] / "model"))
    assert same(wrote, trial.undamaged("finished", "export")[3])
    assert not same(wrote, trial.undamaged("finished", "export step")[3])


WEIGHTS = "checkpoints/step-2/weights.safetensors"
SAMPLE = [
    ("unfinished", "resume", "before.json", "cut"),
    ("unfinished", "resume", "samples.jsonl", "garbage"),
    ("unfinished", "resume", WEIGHTS, "flipped"),
    ("unfinished", "resume", WEIGHTS, "unreadable"),
    ("unfinished", "resume", "checkpoints/step-2/state.json", "flipped"),
    ("unfinished", "resume", "checkpoints/step-2/optimizer.safetensors", "folder"),
    ("unfinished", "resume", "data.json", "cut"),
    ("finished", "export", "model/model.safetensors", "flipped"),
    ("finished", "export", "model/generation_config.json", "garbage"),
    ("finished", "export step", WEIGHTS, "flipped"),
    ("finished", "again", "data.json", "empty"),
    ("finished", "again", "data.json", "missing"),
    ("finished", "note", "pairs.parquet/part-00000002.parquet", "cut"),
    ("finished", "eval", "recipe.yaml", "cut"),
    ("finished", "generate", SEAL, "garbage"),
]
"""Of all that the slow test tries."""


@pytest.mark.parametrize(("state", "command", "name", "kind"), SAMPLE)
def test_a_damaged_file(state, command, name, kind, trial):
    assert not trial.verdict(state, command, name, kind)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_every_file_damaged_in_every_way(state, command, trial):
    cases = list(itertools.product(files_of(trial.runs[state]), DAMAGES))
    wrong = {case: trial.verdict(state, command, *case) for case in cases}
    wrong = {case: why for case, why in wrong.items() if why}
    print(f"\n{state}, {command}: {len(cases)} damages")
    assert not wrong, "\n".join(f"{case}: {why}" for case, why in wrong.items())
