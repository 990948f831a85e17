"""Which files of a folder are its data: folders that mean something are read as they mean it.

A data set saved by `datasets` (`save_to_disk`, a dictionary of splits too) and a copy of a Hub
repository (with the files in `data`) are read; of files or folders named by splits those to
train on. A model, or a run of ours, is refused with the sentence that helps.
"""

import json
import re
from collections import Counter
from pathlib import Path

from redpencil.data.formats import READERS, format_of
from redpencil.errors import DataError

FORMATS = ", ".join(f".{name}" for name in READERS) + " (each also .gz)"
TRAIN = frozenset({"train", "training"})
HELD_OUT = frozenset(["test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"])
KEPT_BOOKS = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
)
"""Files in which `datasets` keeps what its files are."""
_SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?$")


def data_files(path: Path, remarks: Counter[str] | None = None) -> list[Path]:
    """A file itself, or the data files in a folder, in sorted order.

    remarks: takes what was left out. Raises DataError where there is none.
    """
    if not path.is_dir():
        if format_of(path.name) is None:
            raise DataError(f"{path}: unknown kind of file; redpencil reads {FORMATS}")
        return [path]
    remarks = Counter() if remarks is None else remarks
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    names = {p.name for p in inside}
    _refuse_others(path, names)
    if "state.json" in names and any(p.suffix == ".arrow" for p in inside):
        return _saved(path)
    files = [p for p in inside if p.is_file() and format_of(p.name) and p.name not in KEPT_BOOKS]
    if files:
        return _to_train_on(path, files, remarks)
    return _below(path, [p for p in inside if p.is_dir()], remarks)


def _refuse_others(path: Path, names: set[str]) -> None:
    """Folders that hold no data, though files in them look so."""
    if "recipe.yaml" in names and names & {"data.json", "metrics.jsonl", "checkpoints", "model"}:
        raise DataError(
            f"{path} is a run of redpencil, not data; the data it was trained on are named in "
            f"{path / 'recipe.yaml'}, and redpencil note {path} --again OUT.jsonl writes the rows "
            "that it has wrong"
        )
    weights = any(name.endswith((".safetensors", ".bin")) for name in names)
    if "config.json" in names and (weights or "tokenizer.json" in names):
        raise DataError(f"{path} holds a model, not data; name a data file, or a folder of them")


def _saved(path: Path) -> list[Path]:
    """The files of a data set that `save_to_disk` wrote, in the order of its rows."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        files = [path / str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: a data set saved by save_to_disk whose state.json is damaged ({error!r}); "
            "write it anew, with to_parquet or to_json"
        ) from error
    if state.get("_indices_files"):
        raise DataError(
            f"{path}: a data set saved with an index into its rows; write it anew with to_parquet"
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise DataError(f"{path}: a data set saved by save_to_disk that lacks {missing or 'files'}")
    return files


def _split_of(path: Path) -> str:
    """ "train", "held out", or nothing, by the words of a name."""
    words = set(re.split(r"[^a-z0-9]+", path.name.lower().split(".")[0]))
    return "train" if words & TRAIN else "held out" if words & HELD_OUT else ""


def _to_train_on(path: Path, files: list[Path], remarks: Counter[str]) -> list[Path]:
    """Without those that are named as held out, where there are others."""
    kept = [file for file in files if _split_of(file) != "held out"]
    if not kept:
        return files
    splits = {_SHARD.sub("", f.name.split(".")[0]) for f in kept if _SHARD.search(f.stem)}
    if len(splits) > 1:
        raise DataError(
            f"{path} holds several splits to train on: {', '.join(sorted(splits))}; name the files "
            f"of one: '{path / sorted(splits)[0]}-*'"
        )
    left = [file.name for file in files if file not in kept]
    if left:
        remarks[
            f"{path}: {', '.join(left)} left out, by the name held out (to measure on it: "
            f"--eval-data {path / left[0]})"
        ] += 0
    return kept


def _below(path: Path, folders: list[Path], remarks: Counter[str]) -> list[Path]:
    """The folder inside that holds the rows to train on."""
    train = [folder for folder in folders if _split_of(folder) == "train"]
    data = [folder for folder in folders if folder.name == "data"]
    if len(train) == 1:
        left = [f.name for f in folders if _split_of(f) == "held out"]
        rest = f", not {', '.join(left)}" if left else ""
        remarks[f"{path}: read from {train[0].name}{rest}"] += 0
        return data_files(train[0], remarks)
    if len(data) == 1:
        return data_files(data[0], remarks)
    listed = f" (it has the folders {', '.join(f.name for f in folders)})" if folders else ""
    splits = "; name one of them" if any(_split_of(f) for f in folders) else ""
    raise DataError(
        f"{path}: no data files directly in this folder{listed}{splits}; wanted: {FORMATS}"
    )
