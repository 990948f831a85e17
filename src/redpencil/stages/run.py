"""The composition root: a recipe becomes a run."""

from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from redpencil.console import say, warn
from redpencil.data.chat import keep_template, template_clock, use_separator
from redpencil.data.loader import Loader
from redpencil.data.store import Examples
from redpencil.engine.metrics import read_metrics
from redpencil.errors import RunFolderError, not_a
from redpencil.folders.run import PREFERRED_FT, AnyRecipe, RunFolder
from redpencil.folders.targets import run_recipe
from redpencil.models.check import check_model
from redpencil.models.kernels import matrix_kernels
from redpencil.models.load import pick_device
from redpencil.models.tokenizer import context_length, load_tokenizer, require_same_tokens
from redpencil.places import path_of
from redpencil.recipes.stages import (
    STAGES,
    DpoRecipe,
    Recipe,
    ResponsesRecipe,
    RewardRecipe,
    RlRecipe,
    SftRecipe,
)
from redpencil.report import build_report
from redpencil.rollout.rewards import check_reward
from redpencil.stages.monitor import Monitor
from redpencil.stages.prepare import Prepared, Purpose, prepare
from redpencil.stages.reward import wire_reward
from redpencil.stages.reward_monitor import RewardMonitor
from redpencil.stages.rl import wire_rl
from redpencil.stages.rl_monitor import RlMonitor
from redpencil.stages.rl_prompts import PreparedPrompts, prepare_prompts
from redpencil.stages.training import carry_out
from redpencil.stages.wiring import Wiring, refuse_unused_columns, wire
from redpencil.types import Example

LONGEST_DEFAULT = 2048
"""--max-length where the user names none and the model would take more."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run on disk."""

    path: Path

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path):
            raise not_a("Run", "the path of a run folder", self.path)
        object.__setattr__(self, "path", path_of(self.path))

    @property
    def model(self) -> Path:
        """Folder of the final model, in Hugging Face layout."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def summary(self) -> dict[str, Any]:
        """Measurements before and after, steps, seconds."""
        return RunFolder(self.path).read("summary.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; [] before the first. Raises RunFolderError."""
        if not self.path.is_dir():
            raise RunFolderError(f"there is no run folder {self.path}")
        return read_metrics(self.path / "metrics.jsonl")


def train(recipe: Recipe) -> Run:
    """Run one stage to its end, or go on with it where it stopped.

    Raises UserError (nothing is written over), NonFiniteError, Interrupted.
    """
    if not isinstance(recipe, Recipe):
        raise not_a("train", f"a recipe ({', '.join(k.__name__ for k in STAGES.values())})", recipe)
    folder = RunFolder.at(recipe.out)
    if _is_finished(recipe, folder):  # asked without the lock: it may be a folder that is only read
        return Run(folder.path)
    with folder.alone():
        return _train(recipe)


def _is_finished(recipe: Recipe, folder: RunFolder) -> bool:
    """Whether there is nothing to do but a lost report. Raises RunFolderError for another run."""
    if not (folder.recipe.is_file() and folder.finished):
        return False
    folder.resumed(recipe)
    say(f"{folder.path} is finished; nothing to do")
    if not (folder.path / "report.html").is_file():
        build_report(folder.path)
    return True


def _train(recipe: Recipe) -> Run:
    """`train`, with the folder to itself."""
    folder = RunFolder.at(recipe.out)
    if _is_finished(recipe, folder):
        return Run(folder.path)
    if folder.recipe.is_file():
        recipe = folder.resumed(recipe)
    with template_clock(_first_day(recipe, folder)):
        return _train_dated(recipe, folder)


def _first_day(recipe: Recipe, folder: RunFolder) -> str:
    """The day that templates print in all of a run: the one on which it began."""
    fitted = run_recipe(str(folder.path / PREFERRED_FT))  # what a stopped run may have come to
    begun = fitted.template_date if fitted is not None else None
    return recipe.template_date or begun or date.today().isoformat()


def _train_dated(recipe: Recipe, folder: RunFolder) -> Run:
    """`train`, with the clock of templates set."""
    check_models(recipe)
    longest = context_length(recipe.model, trust_remote_code=recipe.trust_remote_code)
    tokenizer = load_tokenizer(recipe.model, trust_remote_code=recipe.trust_remote_code)
    use_separator(tokenizer, recipe.separator, recipe.chat_template)
    keep_template(tokenizer, recipe.chat_template)
    max_length = max_length_of(recipe.max_length, longest)
    if isinstance(recipe, RlRecipe):
        return _train_on_rollouts(recipe, folder, tokenizer, max_length, longest)
    assert isinstance(recipe, ResponsesRecipe), recipe
    purpose: Purpose = "sft" if isinstance(recipe, SftRecipe) else "preference"
    prepared = prepare(recipe, purpose, tokenizer, max_length)
    if isinstance(recipe, RewardRecipe):
        return _train_reward(recipe, folder, tokenizer, prepared, longest)
    start = recipe.model
    if isinstance(recipe, DpoRecipe):
        refuse_unused_columns(recipe, prepared)
        if recipe.reference == "preferred-ft":
            start = _fit_preferred(recipe, tokenizer, prepared, longest)
    return _train_prepared(recipe, folder, tokenizer, prepared, start, longest)


def check_models(recipe: Recipe, *, weights: bool = True) -> None:
    """Raises ModelError or RewardError where the model, the reference or the reward that a recipe
    names cannot be used: before its data are read. weights: whether the model's must be there."""
    remote = recipe.trust_remote_code
    check_model(
        recipe.model, head=recipe.HEAD, new_head=True, weights=weights, trust_remote_code=remote
    )
    reference = getattr(recipe, "reference", None)
    if reference not in (None, "base", "preferred-ft"):
        check_model(str(reference), weights=weights, trust_remote_code=remote)
    if isinstance(recipe, DpoRecipe) and reference not in ("base", "preferred-ft"):
        own, other = (
            load_tokenizer(name, trust_remote_code=remote)
            for name in (recipe.model, str(reference))
        )
        require_same_tokens(own, other, name=recipe.model, reference=str(reference))
    if isinstance(recipe, RlRecipe):
        check_reward(recipe.reward, trust_remote_code=remote)


def max_length_of(named: int | None, longest: int) -> int:
    """What the user says, else what the model takes, within reason."""
    return named or min(longest, LONGEST_DEFAULT)


def _fit_preferred(
    recipe: DpoRecipe, tokenizer: PreTrainedTokenizerBase, prepared: Prepared, longest: int
) -> str:
    """Fit the reference to the preferred completions (the paper's outline for when there is no
    SFT model) and return its folder. Its own run lies in `RUN/preferred-ft`."""
    shared = recipe.model_dump(include=set(SftRecipe.model_fields) - {"stage", "learning_rate"})
    if recipe.eval_data is not None:
        shared.pop("eval_fraction")
    # All weights are fitted even where DPO trains adapters: the reference must be one model.
    shared |= {
        "out": str(path_of(recipe.out) / PREFERRED_FT),
        "lora_rank": 0,
        "lora_alpha": None,
    }
    sft = SftRecipe(**shared)
    folder = RunFolder.at(sft.out)
    if folder.recipe.is_file():
        sft = folder.resumed(sft)
    if folder.finished:
        return str(folder.model)
    with folder.alone():
        say("reference first fitted to the preferred completions (preferred-ft)")
        preferred = replace(
            prepared,
            train=_only_chosen(prepared.train),
            evaluation=_only_chosen(prepared.evaluation),
            dropped=[],
        )
        _train_prepared(sft, folder, tokenizer, preferred, recipe.model, longest)
    return str(folder.model)


def _only_chosen(examples: Examples) -> Examples:
    """Each prompt with the responses that beat another one, without comparisons."""

    def chosen(example: Example) -> Example:
        kept = sorted({c.chosen for c in example.comparisons})
        return replace(example, responses=tuple(example.responses[i] for i in kept), comparisons=())

    return Examples.of(chosen(e) for e in examples if e.comparisons)


def _resolved(
    recipe: AnyRecipe, prepared: Prepared | PreparedPrompts, longest: int
) -> tuple[AnyRecipe, int]:
    """The recipe without open fields, and how many updates it makes."""
    steps = recipe.updates(len(prepared.train))
    for doubt in recipe.doubts(steps):
        warn(doubt)
    recipe = recipe.model_copy(update={"eval_fraction": prepared.eval_fraction})
    max_length = max_length_of(recipe.max_length, longest)
    return recipe.resolve(total_steps=steps, max_length=max_length), steps


def _train_prepared(
    recipe: Recipe,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
    start: str,
    longest: int,
) -> Run:
    recipe, total_steps = _resolved(recipe, prepared, longest)
    with matrix_kernels("default"):  # what was in force comes back afterwards
        wiring = wire(
            recipe,
            folder,
            tokenizer,
            prepared,
            start=start,
            device=pick_device(),
            context_length=longest,
        )
        carry_out(wiring, _offline_stream(wiring), partial(Monitor, wiring), total_steps)
    return Run(folder.path)


def _train_reward(
    recipe: RewardRecipe,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
    longest: int,
) -> Run:
    recipe, total_steps = _resolved(recipe, prepared, longest)
    with matrix_kernels("default"):  # what was in force comes back afterwards
        wiring = wire_reward(
            recipe, folder, tokenizer, prepared, device=pick_device(), context_length=longest
        )
        carry_out(wiring, wiring.stream, partial(RewardMonitor, wiring), total_steps)
    return Run(folder.path)


def _train_on_rollouts(
    recipe: RlRecipe,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    longest: int,
) -> Run:
    prepared = prepare_prompts(recipe, tokenizer, max_length)
    recipe, total_steps = _resolved(recipe, prepared, longest)
    with matrix_kernels("default"):  # what was in force comes back afterwards
        wiring = wire_rl(
            recipe, folder, tokenizer, prepared, device=pick_device(), context_length=longest
        )
        carry_out(wiring, wiring.stream, partial(RlMonitor, wiring), total_steps)
    return Run(folder.path)


def _offline_stream(wiring: Wiring) -> Loader:
    recipe = wiring.recipe
    return Loader(
        examples=wiring.prepared.train,
        batch_size=recipe.batch_size,
        max_tokens=recipe.token_budget,
        seed=recipe.seed,
        cost=wiring.cost,
    )
