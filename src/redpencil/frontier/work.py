"""What a process of the frontier does: one job, from the files of earlier ones to its result.

Results are plain numbers, ready for JSON. P held-out prefixes, M completions of each.
"""

import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from redpencil.engine.state import read_weights, trainable
from redpencil.folders.run import RunFolder
from redpencil.frontier.folder import FrontierFolder
from redpencil.frontier.plan import METHODS, PARTS, Job
from redpencil.frontier.review_world import (
    Completed,
    complete,
    fit_reference,
    labelled_rows,
    response_kl,
    response_logps,
)
from redpencil.recipes.stages import Recipe, make_recipe
from redpencil.rollout.rewards import find_reward
from redpencil.stages.run import train
from redpencil.use.api import Loaded, load
from redpencil.world.pairs import prefixes
from redpencil.world.settings import FrontierSettings

Result = dict[str, Any]

HELD_OUT_SEED = 1_000_000
"""Of the held-out prefixes; seeds of training come nowhere near it."""


def held_out(settings: FrontierSettings) -> list[str]:
    """The prefixes on which everything is measured: never those of any seed's pairs."""
    return prefixes(settings.prefixes, HELD_OUT_SEED)


def work(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> Result:
    """Do one job. What it needs is finished; what it began before, it goes on with."""
    match job.kind:
        case "reference":
            fit_reference(folder.path, settings.world, seed=0)
            result: Result = {}
        case "pairs":
            result = _pairs(job, folder, settings)
        case "samples":
            result = _samples(job, folder, settings)
        case "reward":
            train(_reward_recipe(job, folder, settings))
            result = {}
        case "ranking":
            result = _ranking(job, folder, settings)
        case "policy":
            result = _policy(job, folder, settings)
        case "optimum":
            result = _optimum(job, folder, settings)
    named = {"name": job.name, "kind": job.kind, "method": job.method}
    return {**named, "strength": job.strength, "seed": job.seed, "part": job.part, **result}


def _pairs(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> Result:
    """A seed's preferences between completions of the reference, and their chosen sides."""
    world = settings.world
    starts = prefixes(world.train_prefixes, job.seed, exclude=held_out(settings))
    reference = load(folder.reference)
    completed = complete(reference, starts, world, num=world.completions, seed=_seed(job))
    rows = labelled_rows(completed, world, job.seed)
    chosen = [
        {"prompt": row["prompt"], "completion": row["responses"][winner]}
        for row in rows
        for winner, _ in row["comparisons"]
    ]
    for path, content in ((folder.preferred(job.seed), chosen), (folder.pairs(job.seed), rows)):
        RunFolder(path.parent).write_rows(path.name, content)
    return {"comparisons": len(chosen), "reward": completed.mean}


def _samples(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> Result:
    """Completions of the reference for a part of the held-out prefixes."""
    starts = held_out(settings)[job.part :: PARTS]
    num = settings.reference_completions
    completed = complete(load(folder.reference), starts, settings.world, num=num, seed=_seed(job))
    return {
        "completions": [[c.tolist() for c in each] for each in completed.completions],
        "texts": completed.texts,
        "rewards": _rounded(completed.rewards),
    }


def _ranking(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> Result:
    """What a seed's reward model thinks of the reference's completions, part by part (P, M)."""
    reward = find_reward(str(folder.run(f"reward-{job.seed}")))
    parts = []
    for part in range(PARTS):
        starts = held_out(settings)[part::PARTS]
        samples = _needed(folder, f"samples-{part}")
        prompts = [
            start for start, texts in zip(starts, samples["texts"], strict=True) for _ in texts
        ]
        texts = [text for each in samples["texts"] for text in each]
        responses = [t.removeprefix(p) for t, p in zip(texts, prompts, strict=True)]
        values = reward(prompts, responses, [{}] * len(prompts))
        parts.append(_rounded(np.array(values).reshape(len(starts), -1)))
    return {"rewards": parts}


def _policy(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> Result:
    """Train a policy and measure it at several steps of its run."""
    run = train(_policy_recipe(job, folder, settings))
    reference = load(folder.reference)
    policy = load(folder.reference)
    steps = int(run.summary["steps"])
    points = []
    for look in range(1, settings.looks + 1):
        step = steps * look // settings.looks
        _set_weights(policy.model, run.path / "checkpoints" / f"step-{step}")
        drawn = complete(
            policy,
            held_out(settings),
            settings.world,
            num=settings.completions,
            seed=_seed(job, step),
        )
        points.append({"step": step, "final": step == steps, **_measured(policy, reference, drawn)})
    return {"steps": steps, "points": points}


def forget_checkpoints(job: Job, folder: FrontierFolder) -> None:
    """Free the disk of what only a run in training needs (the final model stays)."""
    shutil.rmtree(folder.run(job.name) / "checkpoints", ignore_errors=True)


def _measured(policy: Loaded, reference: Loaded, drawn: Completed) -> Result:
    """True rewards and KL from the reference of a policy's own completions, (P, M)."""
    tokens = [len(c) for each in drawn.completions for c in each]
    return {
        "rewards": _rounded(drawn.rewards),
        "kl": _rounded(response_kl(policy, reference, drawn)),
        "fluent": drawn.fluent,
        "tokens": float(np.mean(tokens)),
        "example": drawn.texts[0][0],
    }


def _optimum(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> Result:
    """Completions of the reference and of the proposals for a part of the prefixes: true rewards
    (P, M) and log-ratios of each proposal (J, P, M)."""
    starts = held_out(settings)[job.part :: PARTS]
    samples = _needed(folder, f"samples-{job.part}")
    completions = [[np.array(c, dtype=np.int32) for c in each] for each in samples["completions"]]
    rewards = [np.array(samples["rewards"])]
    policies = [load(folder.run(name) / "model") for name in job.proposals]
    for name, policy in zip(job.proposals, policies, strict=True):
        num = settings.proposal_completions
        seed = _seed(job, zlib.crc32(name.encode()))
        drawn = complete(policy, starts, settings.world, num=num, seed=seed)
        rewards.append(drawn.rewards)
        for known, new in zip(completions, drawn.completions, strict=True):
            known += new
    under_reference = response_logps(load(folder.reference), starts, completions)
    ratios = [response_logps(p, starts, completions) - under_reference for p in policies]
    return {
        "rewards": _rounded(np.concatenate(rewards, axis=1)),
        "log_ratios": [_rounded(each) for each in ratios],
        "from_reference": settings.reference_completions,
    }


def _policy_recipe(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> Recipe:
    method = METHODS[job.method]
    assert method.stage and method.options, job
    options = {**_shared(job, folder, settings), **method.options(settings, job.strength)}
    if method.stage == "sft":
        options["data"] = str(folder.preferred(job.seed))
    if method.stage == "rl":
        learned = str(folder.run(f"reward-{job.seed}"))
        options["reward"] = learned if method.learned else "redpencil.world.reward:rewards"
    options["checkpoint_every"] = options["max_steps"] // settings.looks
    options["eval_every"] = options["max_steps"]
    return make_recipe(method.stage, {**options, "sample_prompts": 0})


def _reward_recipe(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> Recipe:
    options = {
        "batch_size": settings.world.dpo_batch_size,
        "max_steps": settings.reward_steps,
        "learning_rate": settings.reward_learning_rate,
        "eval_every": settings.reward_steps,
    }
    return make_recipe("reward", {**_shared(job, folder, settings), **options})


def _shared(job: Job, folder: FrontierFolder, settings: FrontierSettings) -> dict[str, Any]:
    """What the recipes of all runs have in common."""
    return {
        "model": str(folder.reference),
        "data": str(folder.pairs(job.seed)),
        "out": str(folder.run(job.name)),
        "eval_fraction": 0.05,
        "max_grad_norm": settings.world.max_grad_norm,
        "keep_checkpoints": settings.looks,
        # A model this small needs no probes of the machine.
        "max_tokens": 4096,
        "activation_checkpointing": "off",
        "matrix_kernels": "default",
        "seed": job.seed,
    }


def _set_weights(model: nn.Module, checkpoint: Path) -> None:
    """The policy's weights as they were at a checkpoint; a critic's beside them are left out."""
    weights = read_weights(checkpoint)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(weights[name])


def _needed(folder: FrontierFolder, name: str) -> Result:
    result = folder.result(name)
    assert result is not None, f"{name} has not finished"
    return result


def _seed(job: Job, *more: int) -> int:
    """Its own for everything that is sampled."""
    return int(np.random.SeedSequence([zlib.crc32(job.name.encode()), *more]).generate_state(1)[0])


def _rounded(values: np.ndarray) -> list[Any]:
    """Six decimals: far below any standard error here."""
    rounded: list[Any] = np.round(values, 6).tolist()
    return rounded
