"""What a run leaves for others, and the proof before its first step that it can.

A model folder holds all that the next stage needs: weights, config, tokenizer with the chat
template that the run read by, what ends a text, a reward model's mean and deviation, and a card.
What is not weights lies in `RUN/tokenizer` from the start, so that a checkpoint can be exported
from a run that never ended.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from redpencil.engine.state import trainable
from redpencil.errors import MemoryExceeded, ModelError, RedpencilError, RunFolderError
from redpencil.folders.run import RunFolder
from redpencil.models.export import save_adapter, save_frame, save_model
from redpencil.models.head import unwrap
from redpencil.models.quiet import said
from redpencil.places import PARTIAL
from redpencil.recipes.stages import Recipe
from redpencil.report import model_card

ADAPTER = "adapter"
"""The folder in a run with its adapters alone, as peft loads them."""

TRIED = f".tried{PARTIAL}"
"""Where the saving of a run is tried; removed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What of a run is saved. end_ids: tokens that end a text."""

    recipe: Recipe
    folder: RunFolder
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    end_ids: list[int]

    def write_frame(self) -> None:
        """`RUN/tokenizer`: all of the model folder but weights and card."""
        save_frame(unwrap(self.model), self.tokenizer, self.folder.tokenizer, self.end_ids)

    def write(self, summary: Mapping[str, Any]) -> None:
        """`RUN/model`, its weights as they were trained, and the adapters beside it."""
        self._write(self.folder.path, self._card("last", summary))

    def try_writing(self) -> None:
        """Write all of it once, into a folder that is removed again.

        Raises ModelError where the model cannot be saved, RunFolderError where the disk has no room
        for what the run will leave, MemoryExceeded where there is none for merging adapters.
        """
        scratch = self.folder.path / TRIED
        shutil.rmtree(scratch, ignore_errors=True)
        name = self.recipe.model
        try:
            self._write(scratch, self._card("0", {}))
            size = sum(p.stat().st_size for p in scratch.rglob("*") if p.is_file())
        except (RedpencilError, OSError):
            raise
        except torch.OutOfMemoryError:
            raise MemoryExceeded(
                f"the adapters of {name} could not be merged at the end: that takes a second copy "
                "of the model in memory; nothing was trained"
            ) from None
        except Exception as error:  # whatever transformers, peft or safetensors object to
            raise ModelError(
                f"{name} could not be saved at the end of the run ({said(error)}); "
                "nothing was trained"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._refuse_small_disk(size)

    def _card(self, step: str, summary: Mapping[str, Any]) -> str:
        folder, chat = self.folder, bool(self.tokenizer.chat_template)
        return model_card(folder.path, step, name=str(folder.model), chat=chat, summary=summary)

    def _write(self, folder: Path, card: str) -> None:
        if self.recipe.lora_rank:
            save_adapter(self.model, self.tokenizer, folder / ADAPTER)
        save_model(self.model, self.tokenizer, folder / "model", end_ids=self.end_ids, card=card)

    def _refuse_small_disk(self, model_bytes: int) -> None:
        moments = 2 if self.recipe.optimizer == "adamw" else 1
        checkpoint = (1 + moments) * sum(p.nbytes for p in trainable(self.model).values())
        recipe = self.recipe
        assert recipe.max_steps and recipe.checkpoint_every, recipe
        made = -(-recipe.max_steps // recipe.checkpoint_every)
        # At most the newest, the best one, and one that is being written.
        count = min(recipe.keep_checkpoints + 1, made) + 1
        there = sum(p.stat().st_size for p in self.folder.checkpoints.rglob("*") if p.is_file())
        needed = model_bytes + max(0, count * checkpoint - there)
        free = shutil.disk_usage(self.folder.path).free
        if free < needed:
            raise RunFolderError(
                f"{self.folder.path} has {_size(free)} free, and the run will need {_size(needed)} "
                f"there ({_size(model_bytes)} for the model, {_size(checkpoint)} for each of "
                f"{count} checkpoints); free some, keep fewer by --keep-checkpoints, or name "
                "another --out; nothing was trained"
            )


def end_ids_of(folder: RunFolder) -> list[int]:
    """What ends a text of the run's model; [] of a reward model, which writes none."""
    path = folder.tokenizer / "generation_config.json"
    if not path.is_file():
        return []
    ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    return list(ends) if isinstance(ends, list) else [ends] if ends is not None else []


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
