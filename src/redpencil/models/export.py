"""Writing models: Hugging Face layout, safetensors, whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from redpencil.locks import LOCK, lock
from redpencil.models.lora import bare_copy, merged_copy
from redpencil.models.quiet import quiet
from redpencil.places import PARTIAL, naming, remove_folder, to_disk, umask


def save_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """Write model and tokenizer so that plain transformers loads them from `folder`.

    Adapters are merged into a copy; the dtype is that of the weights; a tokenizer's chat template
    and the generation config come along. A folder of that name is replaced.
    """
    with _whole(Path(folder)) as temporary:
        merged_copy(model).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


BASE = "base"
"""The folder beside an adapter's that holds what it stands on, where no other folder does."""


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """Write only the adapters, as peft loads them, and the tokenizer, for the base's may have
    another chat template or padding token. A folder of that name is replaced.

    They name what they were added to. A model that was merged from an adapter lies nowhere: it is
    written beside them, into `base`, for with the first base alone they would be another model.
    """
    folder = Path(folder)
    config = model.peft_config["default"]
    named = config.base_model_name_or_path
    base = Path(named).resolve() if named else folder.with_name(BASE).resolve()
    if not named:
        save_model(bare_copy(model), tokenizer, base)
    with _whole(folder) as temporary:
        tokenizer.save_pretrained(temporary)
        try:
            config.base_model_name_or_path = str(base) if base.is_dir() else named
            # Never the embedding: an added padding token is no part of what was learned.
            model.save_pretrained(str(temporary), save_embedding_layers=False)
        finally:
            config.base_model_name_or_path = named


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name once everything is written. What a
    killed command left there is removed first. Raises RunFolderError where another command is
    writing the same one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}{PARTIAL}")
    with lock(folder.with_name(f".{folder.name}{LOCK}"), str(folder)), naming(folder):
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        try:
            with quiet():
                yield temporary
            _open_up(temporary)
            for path in temporary.rglob("*"):
                to_disk(path)
            if folder.exists():
                remove_folder(folder)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _open_up(folder: Path) -> None:
    """The permissions any new file gets here: safetensors are private."""
    mask = umask()
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
