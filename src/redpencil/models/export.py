"""Writing models: Hugging Face layout, safetensors, whole or not at all."""

import copy
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from redpencil.errors import ModelError
from redpencil.locks import LOCK, lock
from redpencil.models.lora import bare_copy, merged_copy
from redpencil.models.quiet import quiet
from redpencil.models.value import without_value_head
from redpencil.places import PARTIAL, naming, remove_folder, to_disk, umask


def save_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | str,
    *,
    end_ids: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    card: str | None = None,
) -> None:
    """Write all that the next program needs of a model, so that plain transformers loads it from
    `folder`: weights, config, tokenizer with its chat template, and what ends a text.

    Adapters are merged into a copy and a critic is left out. end_ids: tokens that end a text
    (default: those of the model's generation config). dtype: of the weights, default as they are;
    a model that is no copy is cast itself. card: README.md. A folder of that name is replaced.
    Raises ModelError where a weight has no finite value in that dtype.
    """
    with _whole(Path(folder)) as temporary, without_value_head(model):
        plain = merged_copy(model)
        if dtype is not None:
            cast(plain, dtype)
        _save_plain(plain, temporary, end_ids)
        tokenizer.save_pretrained(temporary)
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")


def save_frame(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | str,
    end_ids: Sequence[int],
) -> None:
    """The same without weights: what a checkpoint lacks to be a model folder."""
    with _whole(Path(folder)) as temporary:
        model.config.save_pretrained(temporary)
        _save_generation(model, temporary, end_ids)
        tokenizer.save_pretrained(temporary)


def cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give the weights this dtype, but for modules that their architecture keeps in float32.

    Raises ModelError where a weight would become infinite, as those above 65504 in float16.
    """
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    pattern = "|".join(rf"(?:^|\.){re.escape(name)}(?:\.|$)" for name in sorted(kept)) or r"(?!)"
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or re.search(pattern, name):
            continue
        values = parameter.data.to(dtype)
        if not torch.isfinite(values).all() and torch.isfinite(parameter.data).all():
            raise ModelError(
                f"the weight {name} reaches {float(parameter.data.abs().max()):.3g}, which "
                f"{str(dtype).removeprefix('torch.')} cannot hold; choose bfloat16 or float32"
            )
        parameter.data = values


def _save_plain(model: PreTrainedModel, folder: Path, end_ids: Sequence[int]) -> None:
    """Config, generation config and weights; the model is left as it was."""
    config, generation = model.config, getattr(model, "generation_config", None)
    model.config = copy.deepcopy(config)  # transformers writes dtype and class into it
    try:
        if generation is not None:
            model.generation_config = GenerationConfig()
        model.save_pretrained(folder)
    finally:
        model.config = config
        if generation is not None:
            model.generation_config = generation
    _save_generation(model, folder, end_ids)


def _save_generation(model: PreTrainedModel, folder: Path, end_ids: Sequence[int]) -> None:
    """The generation config as it came, with these end tokens.

    Not by its own `save_pretrained`: that refuses what many published folders hold (a temperature
    without do_sample), once a field was changed.
    """
    generation = getattr(model, "generation_config", None)
    if generation is None or not model.can_generate():
        return
    generation = copy.deepcopy(generation)
    if end_ids:
        generation.eos_token_id = list(end_ids) if len(end_ids) > 1 else end_ids[0]
    path = folder / "generation_config.json"
    generation.to_json_file(path, use_diff=True, keys_to_pop=["compile_config"])


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
