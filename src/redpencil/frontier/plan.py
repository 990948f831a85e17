"""The frontier's plan: which methods, which runs, and what each must wait for.

All seeds share one reference and one set of held-out prefixes, so that there is one optimum and
points differ by their policies alone. A seed has its own prefixes to train on, their completions
and labels, its own order of the data and its own rollouts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redpencil.errors import RecipeError, did_you_mean
from redpencil.world.settings import FrontierSettings

Kind = Literal["reference", "pairs", "samples", "reward", "ranking", "policy", "optimum"]

PARTS = 2
"""The held-out prefixes are sampled in so many jobs, to keep so many processes busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One piece of work for one process. needs: names of jobs whose results it reads.

    strength: of the method (beta or alpha). part: which of the held-out prefixes.
    alone: nothing else can run beside it, so it gets all cores.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...] = ()
    method: str = ""
    strength: float | None = None
    seed: int = 0
    part: int = 0
    proposals: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to a better policy. symbol: of its strength, "" where it has none.

    options: recipe fields at a strength, beside model, data, out and seed; None where nothing is
    trained. learned: it needs a reward model.
    """

    label: str
    symbol: str = ""
    stage: Literal["sft", "dpo", "rl", ""] = ""
    learned: bool = False
    strengths: Callable[[FrontierSettings], Sequence[float | None]] = lambda s: (None,)
    options: Callable[[FrontierSettings, float | None], dict[str, Any]] | None = None


def _dpo(settings: FrontierSettings, beta: float | None) -> dict[str, Any]:
    return {
        "loss": "dpo",
        "beta": beta,
        "batch_size": settings.world.dpo_batch_size,
        "max_steps": settings.dpo_steps,
        "learning_rate": settings.world.dpo_learning_rate,
        "warmup_steps": settings.world.dpo_warmup_steps,
    }


def _unlikelihood(settings: FrontierSettings, alpha: float | None) -> dict[str, Any]:
    return {
        "loss": "unlikelihood",
        "alpha": alpha,
        "batch_size": settings.world.dpo_batch_size,
        "max_steps": settings.unlikelihood_steps,
        "learning_rate": settings.unlikelihood_learning_rate,
        "warmup_steps": settings.world.dpo_warmup_steps,
    }


def _preferred(settings: FrontierSettings, _: float | None) -> dict[str, Any]:
    return {
        "batch_size": settings.world.dpo_batch_size,
        "max_steps": settings.preferred_steps,
        "learning_rate": settings.preferred_learning_rate,
        "warmup_steps": settings.world.dpo_warmup_steps,
    }


def _betas_of_truth(settings: FrontierSettings) -> Sequence[float]:
    return settings.rl_temperatures


def _betas_of_labels(settings: FrontierSettings) -> Sequence[float]:
    """The learned reward is on the scale of the labels, r / label_temperature."""
    return [beta / settings.world.label_temperature for beta in settings.rl_temperatures]


def _ppo(advantage: str) -> Callable[[FrontierSettings, float | None], dict[str, Any]]:
    def options(settings: FrontierSettings, beta: float | None) -> dict[str, Any]:
        return {
            "beta": beta,
            "advantage": advantage,
            "num": settings.rl_num,
            "batch_size": settings.rl_batch_size,
            "max_new_tokens": settings.world.max_new_tokens,
            "max_steps": settings.rl_steps,
            "learning_rate": settings.rl_learning_rate,
            "warmup_steps": settings.world.dpo_warmup_steps,
        }

    return options


METHODS: dict[str, Method] = {
    "dpo": Method(
        label="DPO", symbol="β", stage="dpo", strengths=lambda s: s.dpo_betas, options=_dpo
    ),
    "unlikelihood": Method(
        label="Unlikelihood",
        symbol="α",
        stage="dpo",
        strengths=lambda s: s.unlikelihood_alphas,
        options=_unlikelihood,
    ),
    "preferred-ft": Method(label="Preferred-FT", stage="sft", options=_preferred),
    "ppo": Method(
        label="PPO (learned reward)",
        symbol="β",
        stage="rl",
        learned=True,
        strengths=_betas_of_labels,
        options=_ppo("gae"),
    ),
    "ppo-truth": Method(
        label="PPO (true reward)",
        symbol="β",
        stage="rl",
        strengths=_betas_of_truth,
        options=_ppo("gae"),
    ),
    "rloo": Method(
        label="RLOO (learned reward)",
        symbol="β",
        stage="rl",
        learned=True,
        strengths=_betas_of_labels,
        options=_ppo("rloo"),
    ),
    "best-of-n": Method(label="Best of n (learned reward)", symbol="n", learned=True),
    "best-of-n-truth": Method(label="Best of n (true reward)", symbol="n"),
}

DEFAULT_METHODS = tuple(name for name in METHODS if name != "rloo")
"""The paper's."""


def parse_methods(text: str | None) -> tuple[str, ...]:
    """`"dpo,ppo"` as names of METHODS, in their order there. Raises RecipeError."""
    if text is None:
        return DEFAULT_METHODS
    asked = [name.strip() for name in text.split(",") if name.strip()]
    for name in asked:
        if name not in METHODS:
            raise RecipeError(f"--methods: unknown method {name!r}{did_you_mean(name, METHODS)}")
    if not asked:
        raise RecipeError(f"--methods names none; known are: {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in asked)


def plan(settings: FrontierSettings, methods: Sequence[str], seeds: int) -> list[Job]:
    """Every job before the optimum, in the order in which they are best begun: what others wait
    for first, then the longest."""
    jobs = [Job(name="reference", kind="reference", alone=True)]
    trained = [name for name in methods if METHODS[name].stage]
    learned = any(METHODS[name].learned for name in methods)
    if trained or learned:
        jobs += [
            Job(name=f"pairs-{seed}", kind="pairs", needs=("reference",), seed=seed)
            for seed in range(seeds)
        ]
    if learned:
        jobs += [
            Job(name=f"reward-{seed}", kind="reward", needs=(f"pairs-{seed}",), seed=seed)
            for seed in range(seeds)
        ]
    jobs += [
        Job(name=f"samples-{part}", kind="samples", needs=("reference",), part=part)
        for part in range(PARTS)
    ]
    longest_first = sorted(trained, key=lambda name: METHODS[name].stage != "rl")
    for name in longest_first:
        for strength in METHODS[name].strengths(settings):
            jobs += [_policy(name, strength, seed) for seed in range(seeds)]
    if "best-of-n" in methods:
        samples = tuple(f"samples-{part}" for part in range(PARTS))
        jobs += [
            Job(
                name=f"ranking-{seed}",
                kind="ranking",
                needs=(f"reward-{seed}", *samples),
                seed=seed,
            )
            for seed in range(seeds)
        ]
    return jobs


def _policy(name: str, strength: float | None, seed: int) -> Job:
    method = METHODS[name]
    needs = [f"pairs-{seed}"] + ([f"reward-{seed}"] if method.learned else [])
    strong = "" if strength is None else f"-{strength:g}"
    return Job(
        name=f"{name}{strong}-{seed}",
        kind="policy",
        needs=tuple(needs),
        method=name,
        strength=strength,
        seed=seed,
    )


def optimum_jobs(proposals: Sequence[str]) -> list[Job]:
    """The jobs that look at the optimum, with the policies that help to sample it."""
    return [
        Job(
            name=f"optimum-{part}",
            kind="optimum",
            needs=tuple(f"samples-{p}" for p in range(PARTS)),
            part=part,
            proposals=tuple(proposals),
        )
        for part in range(PARTS)
    ]
