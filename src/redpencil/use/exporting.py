"""`redpencil export`: a Hugging Face folder of a run's last, best or another step."""

from contextlib import nullcontext
from pathlib import Path

import torch

from redpencil.console import say
from redpencil.data.chat import use_separator
from redpencil.engine.state import complete_checkpoints, load_weights, step_of
from redpencil.errors import RecipeError, RunFolderError
from redpencil.folders.run import PREFERRED_FT, RunFolder
from redpencil.folders.targets import run_recipe
from redpencil.locks import alone
from redpencil.models.configs import is_encoder
from redpencil.models.export import save_model
from redpencil.models.load import load_model
from redpencil.models.lora import add_lora
from redpencil.models.padding import settle_padding
from redpencil.models.tokenizer import load_tokenizer
from redpencil.models.value import add_value_head, without_value_head
from redpencil.recipes.stages import Recipe
from redpencil.report import model_card


def export(run: Path, out: Path, *, step: str) -> None:
    """Write the model of `step` ("last", "best" or a number), adapters merged, with a model card.

    Raises RunFolderError, RecipeError; nothing is written over.
    """
    recipe = run_recipe(str(run))
    if recipe is None:
        raise RunFolderError(f"{run} is not a run of redpencil: it has no recipe.yaml")
    if out.exists():
        raise RecipeError(f"{out} exists already; nothing was written over")
    folder = RunFolder(run)
    inside = run.resolve() in out.resolve().parents
    with alone(run) if inside else nullcontext():
        _export(folder, recipe, out, step)
    say(f"{out}: the model of {run}, step {step}")


def _export(folder: RunFolder, recipe: Recipe, out: Path, step: str) -> None:
    run = folder.path
    if not folder.finished and step in ("last", "best"):
        lacks = folder.model / "config.json" if folder.summary.is_file() else folder.summary
        raise RunFolderError(
            f"the run {run} is not finished: there is no {lacks} yet; name a checkpoint by --step N"
        )
    # A reward model's own padding token comes with its tokenizer.
    own = recipe.HEAD == "reward" and folder.finished
    source = str(folder.model) if own else recipe.model
    tokenizer = load_tokenizer(source, trust_remote_code=recipe.trust_remote_code)
    use_separator(tokenizer, recipe.separator, recipe.chat_template)
    cpu = torch.device("cpu")
    if step == "last":
        model = load_model(
            str(folder.model),
            dtype=torch.float32,
            device=cpu,
            trust_remote_code=recipe.trust_remote_code,
            head=recipe.HEAD,
        )
    else:
        checkpoint = _checkpoint(folder, step)
        fitted = run / PREFERRED_FT / "model"
        start = str(fitted) if fitted.is_dir() else recipe.model
        model = load_model(
            start,
            dtype=torch.float32,
            device=cpu,
            trust_remote_code=recipe.trust_remote_code,
            head=recipe.HEAD,
            new_head=recipe.seed if recipe.HEAD == "reward" else None,
        )
        if recipe.HEAD == "reward" and not is_encoder(model.config):
            settle_padding(model, tokenizer, [])
        if recipe.lora_rank:
            assert recipe.lora_alpha is not None, "a stored recipe is resolved"
            model = add_lora(model, rank=recipe.lora_rank, alpha=recipe.lora_alpha)
        if getattr(recipe, "advantage", "") == "gae":
            add_value_head(model)  # a checkpoint has it; what is saved below has not
        load_weights(checkpoint, model)
    with without_value_head(model):
        save_model(model, tokenizer, out)
    card = model_card(folder.path, step, name=out.name, chat=bool(tokenizer.chat_template))
    (out / "README.md").write_text(card, encoding="utf-8")


def _checkpoint(folder: RunFolder, step: str) -> Path:
    if step == "best":
        best = folder.read("summary.json").get("best_step")
        if best is None:
            raise RunFolderError(f"{folder.path} was not evaluated, so no step is its best")
        if best == 0:
            raise RunFolderError(f"the best step of {folder.path} is 0, the model it began from")
        step = str(best)
    found = folder.checkpoints / f"step-{step}"
    if not found.is_dir():
        kept = ", ".join(map(str, sorted(map(step_of, complete_checkpoints(folder.checkpoints)))))
        raise RecipeError(f"{folder.path} keeps no step {step}; kept are: last, best, {kept}")
    return found
