"""RUN|MODEL: what a command that looks at a run or a model was given."""

from redpencil.errors import ModelError
from redpencil.folders.run import PREFERRED_FT, RunFolder
from redpencil.models.check import check_model, gives_reward
from redpencil.models.configs import stored_dtype
from redpencil.models.locate import locate
from redpencil.places import path_of
from redpencil.recipes.stages import Recipe


def model_folder(name: str) -> str:
    """The model of a run folder, or the name itself. Raises ModelError for an unfinished run."""
    if run_recipe(name) is None:
        return name
    model = path_of(name) / "model"
    if not (model / "config.json").is_file():
        raise ModelError(f"the run {name} is not finished: there is no {model / 'config.json'} yet")
    return str(model)


def run_recipe(name: str) -> Recipe | None:
    """The recipe of a run folder; None where `name` is a model. Raises RunFolderError."""
    folder = RunFolder(path_of(name))
    return folder.stored_recipe() if folder.recipe.exists() else None


def check_target(name: str, *, trust_remote_code: bool = False) -> None:
    """Raises ModelError where a run's model or a model cannot write, before its weights are read;
    RunFolderError as `run_recipe`."""
    recipe = run_recipe(name)
    remote = trust_remote_code or (recipe is not None and recipe.trust_remote_code)
    check_model(model_folder(name), trust_remote_code=remote)


def is_reward_model(name: str, recipe: Recipe | None) -> bool:
    """Whether a run, or a model where no run is, gives rewards. Raises ModelError."""
    return gives_reward(name) if recipe is None else recipe.HEAD == "reward"


def base_dtype(name: str, *, trust_remote_code: bool = False) -> str:
    """The dtype of a model's weights; of a run's model, which is written as it was trained, the one
    of the model that the run began from. Raises ModelError."""
    path = path_of(name)
    run = path.parent
    if path.name == "model" and (run / "recipe.yaml").is_file():
        known = RunFolder(run).read_or_warn("environment.json") or {}
        if "base_dtype" in known:
            return str(known["base_dtype"])
    return stored_dtype(locate(name), trust_remote_code)


def reference_of(name: str, recipe: Recipe) -> str:
    """The model a run is compared with: what its `reference` names, or where it began."""
    named = getattr(recipe, "reference", "base")
    if named == "preferred-ft":
        return str(path_of(name) / PREFERRED_FT / "model")
    return recipe.model if named == "base" else str(named)
