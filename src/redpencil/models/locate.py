"""Where a model is: a local folder, or a name on the Hub, fetched or already in its cache.

Every way in which a name can be wrong is found here, before anything large is read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from redpencil.console import warn_once
from redpencil.errors import ModelError, did_you_mean
from redpencil.places import checksums, path_of

ADAPTER_CONFIG = "adapter_config.json"

_TIMEOUT = 10.0
"""Seconds to wait for the Hub; transformers itself would try for most of a minute."""


@dataclass(frozen=True, slots=True)
class Located:
    """name: as the user wrote it. source: what transformers loads. folder: None for a Hub name
    whose files transformers fetches."""

    name: str
    source: str
    folder: Path | None


def refuse_absent(name: str) -> None:
    """Raise ModelError, as `locate` does, for a path that is not there. Asks nobody."""
    path = path_of(name)
    if not path.exists() and not _may_be_hub_name(name):
        raise ModelError(f"there is no model folder {name}{_near(path)}")


def locate(name: str) -> Located:
    """Find a model by folder or Hub name. Raises ModelError if it is neither."""
    path = path_of(name)
    if path.is_dir():
        return Located(name, str(path), path)
    if path.exists():
        raise ModelError(f"{name} is a file; a model is a folder that holds a config.json")
    refuse_absent(name)
    try:
        info = HfApi().model_info(name, timeout=_TIMEOUT)
    except HFValidationError:
        raise ModelError(f"{name} is neither a folder here nor a valid name on the Hub") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{name} is neither a folder here nor a model on the Hub{_near(path)}; "
            "if it is a private one, log in with `hf auth login`"
        ) from None
    except Exception:  # whatever the Hub client's HTTP library raises when the way is barred
        for file in ("config.json", ADAPTER_CONFIG):
            cached = try_to_load_from_cache(name, file)
            if isinstance(cached, str):
                return Located(name, str(Path(cached).parent), Path(cached).parent)
        raise ModelError(
            f"{name} is neither a folder here nor reachable on the Hub, nor in its cache"
            f"{_near(path)}"
        ) from None
    if any(file.rfilename == ADAPTER_CONFIG for file in getattr(info, "siblings", None) or ()):
        return _fetched(name)
    return Located(name, name, None)


def _fetched(name: str) -> Located:
    """An adapter on the Hub, brought into the cache: what it stands on is in its files."""
    try:
        folder = snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja"])
    except Exception as error:  # as above
        raise ModelError(f"{name} cannot be fetched from the Hub: {error}") from error
    return Located(name, folder, Path(folder))


def _near(path: Path) -> str:
    """A folder beside `path` with nearly its name, as a suggestion."""
    if not path.parent.is_dir():
        return ""
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()]
    suggestion = did_you_mean(path.name, beside)
    return suggestion if suggestion.startswith("; did") else ""


def _may_be_hub_name(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1 and "\\" not in name


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object of a model folder. Raises ModelError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__}, not a JSON object")
    return content


_OBJECTS = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def check_objects(found: Located) -> None:
    """Raises ModelError where a file beside the weights is damaged: transformers ends in an error
    of its own, or (of generation_config.json) goes on without the end tokens that stand there."""
    for name in _OBJECTS if found.folder else ():
        assert found.folder is not None
        if (found.folder / name).is_file():
            read_json(found.folder / name)
    if found.folder and (path := found.folder / "tokenizer.json").is_file():
        lacks = [key for key in ("model", "added_tokens") if key not in read_json(path)]
        if lacks:
            raise ModelError(f'{found.name} has no usable tokenizer: {path} lacks "{lacks[0]}"')


def adapter_base(found: Located) -> str | None:
    """The base model's name if the folder holds an adapter and no model of its own.

    Raises ModelError where it holds both, or the bases of adapters lead back to one of them.
    """
    base, seen = _base_of(found), {found.source}
    at = None if base is None else path_of(base)
    while at is not None and at.is_dir():
        if str(at) in seen:
            raise ModelError(f"{found.name} is an adapter that stands on itself, by way of {at}")
        seen.add(str(at))
        below = _base_of(Located(str(at), str(at), at))
        at = None if below is None else path_of(below)
    return base


def _base_of(found: Located) -> str | None:
    if found.folder is None or not (found.folder / ADAPTER_CONFIG).exists():
        return None
    path = found.folder / ADAPTER_CONFIG
    if (found.folder / "config.json").exists() and _model_weights(found.folder):
        raise ModelError(
            f"{found.name} holds a model and an adapter, and it is not said which is meant; move "
            f"{ADAPTER_CONFIG} and the adapter's weights to a folder of their own, and name one of "
            "the two"
        )
    base = read_json(path).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{path} does not name its base model (base_model_name_or_path)")
    if not isinstance(base, str):
        raise ModelError(f"{path} names {base!r} as its base model, which is no folder or name")
    return base


def _model_weights(folder: Path) -> bool:
    """Whether a folder holds weights of a whole model, by the names that transformers gives."""
    return any(any(folder.glob(f"{name}*")) for name in ("model.", "model-", "pytorch_model"))


SEAL = "checksums.json"
"""Beside a run's model: the SHA-256 of each of its files, by "FOLDER/NAME"."""


def require_unchanged(found: Located) -> None:
    """Raises ModelError where weights of a run's model are not those that the run wrote, or a file
    of it is gone; warns where another file was changed, which somebody may have meant."""
    if found.folder is None:
        return
    folder = found.folder.resolve()
    seal = folder.parent / SEAL
    if not seal.is_file():
        return
    known = {
        name: checksum
        for name, checksum in read_json(seal).items()
        if name.startswith(f"{folder.name}/")
    }
    if gone := sorted(name for name in known if not (folder.parent / name).is_file()):
        raise ModelError(f"{folder.parent / gone[0]} is missing: the run wrote it ({seal})")
    for name, checksum in checksums(folder.parent, known).items():
        if checksum == known[name]:
            continue
        if name.endswith(".safetensors"):
            raise ModelError(
                f"{folder.parent / name} is damaged: it is not what the run wrote; if it was "
                f"changed on purpose, remove {seal}"
            )
        warn_once(f"{folder.parent / name} was changed since the run wrote it")


def require_weights(found: Located) -> None:
    """Raises ModelError where a folder holds no safetensors weights."""
    if found.folder is None or any(found.folder.glob("*.safetensors")):
        return
    if any(found.folder.glob("*.bin")) or any(found.folder.glob("*.pt*")):
        raise ModelError(
            f"{found.name} has its weights only as a pickle, which can run code when it is opened; "
            "save it as safetensors first (model.save_pretrained in transformers does)"
        )
    raise ModelError(f"{found.name} holds no weights: there is no .safetensors file in it")
