"""A wired stage, carried out: training with its checkpoints, the final model, the report."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from redpencil.console import say
from redpencil.data.loader import BatchStream
from redpencil.engine.course import Every
from redpencil.engine.loop import train as train_loop
from redpencil.engine.metrics import MetricsLog
from redpencil.engine.state import (
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    trainable,
)
from redpencil.folders.datafiles import file_hashes
from redpencil.folders.run import environment
from redpencil.folders.targets import base_dtype
from redpencil.objectives import bind, kind_of_rewards
from redpencil.optim import OptimConfig, build_optimizer
from redpencil.recipes.stages import DpoRecipe, Recipe
from redpencil.report import build_report, conclusion
from redpencil.stages.monitor import Monitor
from redpencil.stages.prepare import dated
from redpencil.stages.reward import RewardWiring
from redpencil.stages.reward_monitor import RewardMonitor
from redpencil.stages.rl import RlWiring
from redpencil.stages.rl_monitor import RlMonitor
from redpencil.stages.saving import Product
from redpencil.stages.wiring import Wiring

Wired = Wiring | RewardWiring | RlWiring
Watch = Callable[[MetricsLog], Monitor | RewardMonitor | RlMonitor]
"""Makes what evaluates a run and writes it down."""


def carry_out(wiring: Wired, stream: BatchStream, watch: Watch, total_steps: int) -> None:
    """Train to the last step and leave a whole run folder, its summary last."""
    folder = wiring.folder
    product = Product(
        recipe=wiring.recipe,
        folder=folder,
        model=wiring.model,
        tokenizer=wiring.tokenizer,
        end_ids=wiring.end_ids,
    )
    _write_beginning(wiring)
    product.write_frame()
    product.try_writing()
    summary = _train(wiring, stream, watch, total_steps)
    product.write(summary)
    folder.seal()
    folder.write("summary.json", summary)  # the last word: a run that has it is whole
    page = build_report(folder.path)
    for label, sentence in conclusion(folder.path):
        say(f"{label:<10}{sentence}", result=True)
    say(f"model     {folder.model}", result=True)
    say(f"report    {page}", result=True)


def _train(wiring: Wired, stream: BatchStream, watch: Watch, total_steps: int) -> dict[str, Any]:
    """Train to the last step and return the summary."""
    recipe, folder, model = wiring.recipe, wiring.folder, wiring.model
    config = _optim_config(recipe)
    optimizer = build_optimizer(trainable(model).items(), config)
    checkpoint = latest_checkpoint(folder.checkpoints)
    state = load_checkpoint(checkpoint, model, optimizer) if checkpoint else TrainState()
    if checkpoint:
        say(f"resuming  from {checkpoint}")
    elif (folder.path / "metrics.jsonl").is_file():
        say("resuming  no checkpoint is left, so the run begins anew")

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

        began = time.perf_counter()
        if not checkpoint:
            state = monitor.begin(state)
            build_report(folder.path)  # there from the start, and what it needs is known to be
        looked = None if checkpoint else time.perf_counter() - began
        assert recipe.eval_every and recipe.checkpoint_every, recipe
        hooks = (Every(recipe.eval_every, evaluate, looked), Every(recipe.checkpoint_every, save))
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
            log_every=recipe.log_every,
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
    recipe = dated(recipe)
    folder.write_recipe(recipe)
    chosen = _in_one_line(recipe.model_dump(exclude_defaults=True))
    say(f"recipe    {chosen}; whole in {folder.recipe}")
    folder.write_dropped(prepared.dropped)
    if prepared.diagnosis is not None:
        folder.write("findings.json", prepared.diagnosis.as_json())
    marks = {f"{k}_fingerprint": v for k, v in began.items()}
    files = file_hashes(recipe.data, recipe.eval_data)
    folder.write("data.json", {**prepared.facts, **marks, "files": files})
    dtype = str(next(wiring.model.parameters()).dtype).removeprefix("torch.")
    facts = environment(
        device=str(wiring.device),
        dtype=dtype,
        base_dtype=base_dtype(recipe.model, trust_remote_code=recipe.trust_remote_code),
        parameters=total,
        trainable_parameters=trained,
        **_rewards_of(recipe),
    )
    folder.write("environment.json", facts)


def _rewards_of(recipe: Recipe) -> dict[str, str]:
    """Which kind of rewards the objective has, for whoever reads the run without it."""
    if not isinstance(recipe, DpoRecipe):
        return {}
    return {"rewards": kind_of_rewards(bind(recipe.loss, **recipe.loss_options))}


def _in_one_line(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in options.items() if v not in (None, {}, ""))
