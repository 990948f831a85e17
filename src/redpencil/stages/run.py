"""The composition root: a recipe becomes a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from redpencil.console import say
from redpencil.data.loader import BatchStream, Loader
from redpencil.data.store import Examples
from redpencil.engine.loop import Every
from redpencil.engine.loop import train as train_loop
from redpencil.engine.metrics import MetricsLog, read_metrics
from redpencil.engine.state import (
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    trainable,
)
from redpencil.folders.datafiles import file_hashes
from redpencil.folders.run import PREFERRED_FT, AnyRecipe, RunFolder, environment
from redpencil.models.export import save_adapter, save_model
from redpencil.models.head import unwrap
from redpencil.models.kernels import matrix_kernels
from redpencil.models.load import context_length, load_tokenizer, pick_device
from redpencil.models.value import without_value_head
from redpencil.optim import OptimConfig, build_optimizer
from redpencil.recipes.stages import (
    DpoRecipe,
    Recipe,
    ResponsesRecipe,
    RewardRecipe,
    RlRecipe,
    SftRecipe,
)
from redpencil.report import build_report
from redpencil.stages.monitor import Monitor
from redpencil.stages.prepare import Prepared, Purpose, prepare
from redpencil.stages.reward import RewardWiring, wire_reward
from redpencil.stages.reward_monitor import RewardMonitor
from redpencil.stages.rl import RlWiring, wire_rl
from redpencil.stages.rl_monitor import RlMonitor
from redpencil.stages.rl_prompts import prepare_prompts
from redpencil.stages.wiring import Wiring, refuse_unused_columns, wire
from redpencil.types import Example

LONGEST_DEFAULT = 2048
"""--max-length where the user names none and the model would take more."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run on disk."""

    path: Path

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
        """The lines of `metrics.jsonl`."""
        return read_metrics(self.path / "metrics.jsonl")


def train(recipe: Recipe) -> Run:
    """Run one stage to its end, or go on with it where it stopped.

    Raises UserError (nothing is written over), NonFiniteError, Interrupted.
    """
    folder = RunFolder.at(recipe.out)
    if folder.recipe.is_file():
        recipe = folder.resumed(recipe)
        if folder.finished:
            say(f"{folder.path} is finished; nothing to do")
            if not (folder.path / "report.html").is_file():
                build_report(folder.path)
            return Run(folder.path)
    longest = context_length(recipe.model, trust_remote_code=recipe.trust_remote_code)
    tokenizer = load_tokenizer(recipe.model, trust_remote_code=recipe.trust_remote_code)
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
        "out": str(Path(recipe.out) / PREFERRED_FT),
        "lora_rank": 0,
        "lora_alpha": None,
    }
    sft = SftRecipe(**shared)
    folder = RunFolder.at(sft.out)
    if folder.recipe.is_file():
        sft = folder.resumed(sft)
    if not folder.finished:
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


def _resolved(recipe: AnyRecipe, prompts: int, longest: int) -> tuple[AnyRecipe, int]:
    """The recipe without open fields, and how many updates it makes."""
    steps = recipe.updates(prompts)
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
    recipe, total_steps = _resolved(recipe, len(prepared.train), longest)
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
        return _carry_out(wiring, _offline_stream(wiring), partial(Monitor, wiring), total_steps)


def _train_reward(
    recipe: RewardRecipe,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
    longest: int,
) -> Run:
    recipe, total_steps = _resolved(recipe, len(prepared.train), longest)
    with matrix_kernels("default"):  # what was in force comes back afterwards
        wiring = wire_reward(
            recipe, folder, tokenizer, prepared, device=pick_device(), context_length=longest
        )
        return _carry_out(wiring, wiring.stream, partial(RewardMonitor, wiring), total_steps)


def _train_on_rollouts(
    recipe: RlRecipe,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    longest: int,
) -> Run:
    prepared = prepare_prompts(recipe, tokenizer, max_length)
    recipe, total_steps = _resolved(recipe, len(prepared.train), longest)
    with matrix_kernels("default"):  # what was in force comes back afterwards
        wiring = wire_rl(
            recipe, folder, tokenizer, prepared, device=pick_device(), context_length=longest
        )
        return _carry_out(wiring, wiring.stream, partial(RlMonitor, wiring), total_steps)


def _offline_stream(wiring: Wiring) -> Loader:
    recipe = wiring.recipe
    return Loader(
        examples=wiring.prepared.train,
        batch_size=recipe.batch_size,
        max_tokens=recipe.token_budget,
        seed=recipe.seed,
        cost=wiring.cost,
    )


Wired = Wiring | RewardWiring | RlWiring
Watch = Callable[[MetricsLog], Monitor | RewardMonitor | RlMonitor]
"""Makes what evaluates a run and writes it down."""


def _carry_out(wiring: Wired, stream: BatchStream, watch: Watch, total_steps: int) -> Run:
    folder = wiring.folder
    _write_beginning(wiring)
    summary = _train(wiring, stream, watch, total_steps)
    _save(wiring)
    folder.write("summary.json", summary)  # the last word: a run that has it is whole
    say(f"model     {folder.model}")
    say(f"report    {build_report(folder.path)}")
    return Run(folder.path)


def _save(wiring: Wired) -> None:
    """The final model, which ends its texts where its training responses ended."""
    ends = wiring.end_ids
    generation = getattr(unwrap(wiring.model), "generation_config", None)
    if generation is not None:
        generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    if wiring.recipe.lora_rank:
        save_adapter(wiring.model, wiring.folder.path / "adapter")
    with without_value_head(wiring.model):
        save_model(wiring.model, wiring.tokenizer, wiring.folder.model)


def _train(wiring: Wired, stream: BatchStream, watch: Watch, total_steps: int) -> dict[str, Any]:
    """Train to the last step and return the summary."""
    recipe, folder, model = wiring.recipe, wiring.folder, wiring.model
    config = _optim_config(recipe)
    optimizer = build_optimizer(trainable(model).items(), config)
    checkpoint = latest_checkpoint(folder.checkpoints)
    state = load_checkpoint(checkpoint, model, optimizer) if checkpoint else TrainState()
    if checkpoint:
        say(f"resuming  from {checkpoint}")

    def save(state: TrainState) -> TrainState:
        if pairs:  # first: what a checkpoint has behind it is never measured again
            pairs.write(state.step)
        save_checkpoint(folder.checkpoints, state, model, optimizer)
        prune_checkpoints(
            folder.checkpoints, keep=recipe.keep_checkpoints, best_step=state.best_step
        )
        return state

    model.train()
    with MetricsLog(folder.path, resumed_at=state.step if checkpoint else None) as log:
        monitor = watch(log)
        pairs = monitor.pairs
        if pairs:
            pairs.go_on(state.step if checkpoint else None)

        def evaluate(state: TrainState) -> TrainState:
            state = monitor.evaluate(state)
            return save(state) if state.best_step == state.step else state

        if not checkpoint:
            state = monitor.begin(state)
        assert recipe.eval_every and recipe.checkpoint_every, recipe
        hooks = (Every(recipe.eval_every, evaluate), Every(recipe.checkpoint_every, save))
        state = train_loop(
            model,
            pairs.observed(wiring.task) if pairs else wiring.task,
            stream,
            optimizer,
            config,
            state,
            total_steps=total_steps,
            log=log,
            hooks=(Every(1, pairs.stepped), *hooks) if pairs else hooks,
            on_stop=save,
            label=f"{recipe.stage} step",
        )
        return monitor.finish(state)


def _optim_config(recipe: Recipe) -> OptimConfig:
    assert recipe.learning_rate is not None and recipe.warmup_steps is not None, recipe
    return OptimConfig(
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_steps=recipe.warmup_steps,
        schedule=recipe.schedule,
        max_grad_norm=recipe.max_grad_norm,
    )


def _write_beginning(wiring: Wired) -> None:
    """Say what is about to happen and keep it in the run folder."""
    recipe, folder, prepared = wiring.recipe, wiring.folder, wiring.prepared
    began = {"data": prepared.fingerprint, "model": wiring.fingerprint}
    if isinstance(wiring, RlWiring) and wiring.reward_fingerprint:
        began["reward"] = wiring.reward_fingerprint
    folder.refuse_other_start(**began)
    trained = sum(p.numel() for p in trainable(wiring.model).values())
    total = sum(p.numel() for p in wiring.model.parameters())
    say(f"model     {recipe.model}: {total:,} parameters, {trained:,} trained, {wiring.device}")
    say("recipe    " + _in_one_line(recipe.model_dump()))
    folder.write_recipe(recipe)
    folder.write_dropped(prepared.dropped)
    if prepared.diagnosis is not None:
        folder.write("findings.json", prepared.diagnosis.as_json())
    marks = {f"{k}_fingerprint": v for k, v in began.items()}
    files = file_hashes(recipe.data, recipe.eval_data)
    folder.write("data.json", {**prepared.facts, **marks, "files": files})
    dtype = str(next(wiring.model.parameters()).dtype).removeprefix("torch.")
    facts = environment(
        device=str(wiring.device), dtype=dtype, parameters=total, trainable_parameters=trained
    )
    folder.write("environment.json", facts)


def _in_one_line(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in options.items() if v not in (None, {}, ""))
