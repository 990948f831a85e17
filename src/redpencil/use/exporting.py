"""`redpencil export`: a Hugging Face folder of a run's last, best or another step."""

from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.console import say
from redpencil.data.chat import template_clock
from redpencil.engine.state import complete_checkpoints, load_weights, step_of
from redpencil.errors import DataError, RecipeError, RunFolderError, did_you_mean
from redpencil.folders.run import PREFERRED_FT, RunFolder
from redpencil.folders.targets import base_dtype, run_recipe
from redpencil.locks import alone
from redpencil.models.export import save_model
from redpencil.models.kernels import matrix_kernels
from redpencil.models.load import load_model, pick_device
from redpencil.models.lora import add_lora
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.models.value import add_value_head
from redpencil.recipes.stages import Recipe, RewardRecipe
from redpencil.report import model_card
from redpencil.stages.centring import centre_of, note_centre
from redpencil.stages.prepare import prepare
from redpencil.stages.reward import wire_reward
from redpencil.stages.saving import end_ids_of

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def export(run: Path, out: Path, *, step: str, dtype: str = "base") -> None:
    """Write the model of `step` ("last", "best" or a number) as the run itself writes its last:
    adapters merged, with the tokenizer, chat template and end tokens of the run, a reward model's
    mean and deviation, and a model card.

    dtype: of the weights, "base" for the one that the run's base model had. Raises RunFolderError,
    RecipeError, ModelError; nothing is written over.
    """
    recipe = run_recipe(str(run))
    if recipe is None:
        raise RunFolderError(f"{run} is not a run of redpencil: it has no recipe.yaml")
    if out.exists():
        raise RecipeError(f"{out} exists already; nothing was written over")
    if dtype != "base" and dtype not in DTYPES:
        known = did_you_mean(dtype, ["base", *DTYPES])
        raise RecipeError(f"--dtype {dtype} is none that weights are written in{known}")
    folder = RunFolder(run)
    inside = run.resolve() in out.resolve().parents
    with alone(run) if inside else nullcontext():
        _export(folder, recipe, out, step, dtype)


def _export(folder: RunFolder, recipe: Recipe, out: Path, step: str, dtype: str) -> None:
    run = folder.path
    if not folder.finished and step in ("last", "best"):
        lacks = folder.model / "config.json" if folder.summary.is_file() else folder.summary
        raise RunFolderError(
            f"the run {run} is not finished: there is no {lacks} yet; name a checkpoint by --step N"
        )
    if not folder.tokenizer.is_dir():
        raise RunFolderError(
            f"{folder.tokenizer} is not there: the run has not come to its first step, or was made "
            "by an older redpencil; the command that began it writes it"
        )
    remote = recipe.trust_remote_code
    if dtype == "base":
        # As the run says; its base may have moved since.
        named = folder.read("environment.json").get("base_dtype")
        dtype = named or base_dtype(recipe.model, trust_remote_code=remote)
    summary = folder.read("summary.json") if folder.summary.is_file() else {}
    if step == "best":
        step = _best(folder, summary)
    tokenizer = load_tokenizer(str(folder.tokenizer), trust_remote_code=remote)
    if step == "last" or (folder.finished and step == str(summary.get("steps"))):
        model = load_model(
            str(folder.model),
            dtype=torch.float32,
            device=torch.device("cpu"),
            trust_remote_code=remote,
            head=recipe.HEAD,
        )
    else:
        checkpoint = _checkpoint(folder, step)
        if isinstance(recipe, RewardRecipe):
            model = _reward_model(recipe, folder, tokenizer, checkpoint)
        else:
            model = _language_model(recipe, folder, checkpoint)
    save_model(
        model,
        tokenizer,
        out,
        end_ids=end_ids_of(folder),
        dtype=DTYPES[dtype],
        card=model_card(folder.path, step, name=out.name, chat=bool(tokenizer.chat_template)),
    )
    say(f"{out}: the model of {run}, step {step}, in {dtype}")


def _language_model(recipe: Recipe, folder: RunFolder, checkpoint: Path) -> PreTrainedModel:
    """The policy as it was at a checkpoint, adapters and critic beside it."""
    fitted = folder.path / PREFERRED_FT / "model"
    model = load_model(
        str(fitted) if fitted.is_dir() else recipe.model,
        dtype=torch.float32,
        device=torch.device("cpu"),
        trust_remote_code=recipe.trust_remote_code,
    )
    if recipe.lora_rank:
        assert recipe.lora_alpha is not None, "a stored recipe is resolved"
        model = add_lora(model, rank=recipe.lora_rank, alpha=recipe.lora_alpha)
    if getattr(recipe, "advantage", "") == "gae":
        add_value_head(model)  # a checkpoint has it; what is saved has not
    load_weights(checkpoint, model)
    return model


def _reward_model(
    recipe: RewardRecipe, folder: RunFolder, tokenizer: PreTrainedTokenizerBase, checkpoint: Path
) -> PreTrainedModel:
    """The reward model as it was at a checkpoint. Where its rewards lie is measured as at the end
    of a run: the last step's mean is not this one's. Raises RunFolderError without the run's data.
    """
    recipe = recipe.model_copy(update={"chat_template": "auto"})  # the tokenizer has the run's
    longest = context_length(recipe.model, trust_remote_code=recipe.trust_remote_code)
    assert recipe.max_length is not None, "a stored recipe is resolved"
    try:
        with template_clock(recipe.template_date):
            prepared = prepare(recipe, "preference", tokenizer, recipe.max_length)
    except DataError as error:
        raise RunFolderError(
            f"the mean reward at {checkpoint} is measured on the run's training data, which cannot "
            f"be read any more: {error}"
        ) from None
    with matrix_kernels("default"):  # what was in force comes back afterwards
        wiring = wire_reward(
            recipe, folder, tokenizer, prepared, device=pick_device(), context_length=longest
        )
        folder.refuse_other_start(data=prepared.fingerprint, model=wiring.fingerprint)
        load_weights(checkpoint, wiring.model)
        note_centre(wiring.model, centre_of(wiring))
    return wiring.model


def _best(folder: RunFolder, summary: dict[str, object]) -> str:
    best = summary.get("best_step")
    if best is None:
        raise RunFolderError(f"{folder.path} was not evaluated, so no step is its best")
    if best == 0:
        raise RunFolderError(f"the best step of {folder.path} is 0, the model it began from")
    return str(best)


def _checkpoint(folder: RunFolder, step: str) -> Path:
    found = folder.checkpoints / f"step-{step}"
    if not found.is_dir():
        kept = ", ".join(map(str, sorted(map(step_of, complete_checkpoints(folder.checkpoints)))))
        raise RecipeError(f"{folder.path} keeps no step {step}; kept are: last, best, {kept}")
    return found
