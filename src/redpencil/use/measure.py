"""`redpencil eval`: a run or a model measured on preference pairs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.console import say, track, warn
from redpencil.data.chat import template_clock
from redpencil.data.group import group_by_prompt
from redpencil.data.loader import all_once
from redpencil.data.packing import padded_cost, tree_cost
from redpencil.data.records import load_records
from redpencil.data.sources import Spec, named
from redpencil.data.split import fraction_of, split_by_prompt
from redpencil.data.tokenize import tokenize_records
from redpencil.errors import DataError, RecipeError
from redpencil.evals.accuracy import evaluate
from redpencil.evals.pairs import Valued
from redpencil.evals.rewards import reward_findings
from redpencil.folders.targets import (
    check_target,
    is_reward_model,
    model_folder,
    reference_of,
    run_recipe,
)
from redpencil.models.check import check_examples
from redpencil.models.tokenizer import load_tokenizer, require_same_tokens
from redpencil.objectives import OBJECTIVES, bind, kind_of_rewards
from redpencil.recipes.stages import DpoRecipe, Recipe
from redpencil.report.estimates import clustered_share
from redpencil.report.wording import fixed
from redpencil.rollout.reward_model import RewardModel
from redpencil.scores.forward import Scorer, scorer_for
from redpencil.scores.reference import cached_reference
from redpencil.stages.tasks import in_precision, preference_task, reward_task, sft_task
from redpencil.types import Example, TreeBatch
from redpencil.use.api import SCORING_TOKENS, Loaded, load


def evaluate_pairs(
    target: str,
    data: Spec | None,
    reference: str | None,
    beta: float | None,
    columns: dict[str, str],
) -> dict[str, Any]:
    """Accuracy, margin and log-probabilities on pairs, as a JSON-ready mapping.

    With a reference (the run's own, or the one named) accuracy is that of the rewards of the run's
    objective, or with a beta of the implicit reward beta log pi/pi_ref; without a reference it is
    that of the log-probability alone, and says so.
    Raises UserError.
    """
    recipe = run_recipe(target)
    remote = recipe is not None and recipe.trust_remote_code
    if is_reward_model(target, recipe):
        for option, value in (("reference", reference), ("beta", beta)):
            if value is not None:
                raise RecipeError(f"--{option} does nothing with a reward model; leave it out")
        return _evaluate_rewards(target, recipe, data, columns)
    policy = load(target, trust_remote_code=remote)
    compared = reference or (reference_of(target, recipe) if recipe else None)
    if compared is not None:  # before the pairs are read
        check_target(compared, trust_remote_code=remote)
        theirs = load_tokenizer(model_folder(compared), trust_remote_code=remote)
        require_same_tokens(policy.tokenizer, theirs, name=target, reference=compared)
    examples, prompts, source = _examples(
        target, recipe, data, columns, policy.tokenizer, policy.context_length
    )
    comparisons = sum(len(e.comparisons) for e in examples)
    if not comparisons:
        raise DataError(f"{source} holds no pairs to measure on")
    result: dict[str, Any] = {
        "model": target,
        "data": source,
        "prompts": prompts,
        "pairs": comparisons,
    }
    if compared is None:
        if beta is not None:
            raise RecipeError("--beta does nothing without a reference; name one by --reference")
        pi_logps = _response_logps(policy, examples, "policy")
        return {**result, "score": "log-probability", **_pair_numbers(examples, pi_logps)}
    ref_logps = _response_logps(load(compared, trust_remote_code=remote), examples, "reference")
    valuation = _valuation(target, recipe, beta)
    found = _response_values(policy, examples, valuation, ref_logps)
    change = found.pi_logps - ref_logps
    return {
        **result,
        "score": valuation.name,
        "reference": compared,
        "beta": valuation.options.get("beta", 1.0),
        **_pair_numbers(examples, found.rewards, rounding=found.rounding),
        "chosen_logp_change": _mean_change(examples, change, "chosen"),
        "rejected_logp_change": _mean_change(examples, change, "rejected"),
    }


@dataclass(frozen=True, slots=True)
class _Valuation:
    """By which objective's rewards pairs are compared, and what they are called."""

    loss: str
    options: dict[str, float]
    name: str


def _valuation(target: str, recipe: Recipe | None, beta: float | None) -> _Valuation:
    """The run's own objective, as its metrics and notebook have it; implicit rewards where a beta
    is named or the target was trained without one. What cannot be computed here is said."""
    implicit = "implicit reward"
    if beta is not None or not isinstance(recipe, DpoRecipe):
        own = getattr(recipe, "beta", None)
        return _Valuation("dpo", {"beta": beta or own or 0.1}, implicit)
    if recipe.loss in OBJECTIVES:
        options = recipe.loss_options
        kind = kind_of_rewards(bind(recipe.loss, **options))
        name = implicit if kind == "implicit" else f"reward of the loss {recipe.loss}"
        return _Valuation(recipe.loss, options, name)
    warn(
        f"{target} was trained with the loss {recipe.loss!r}, which is not registered in this "
        "program (redpencil.OBJECTIVES): its rewards cannot be computed here. What follows is "
        "log pi - log pi_ref; the run's own numbers are in its metrics.jsonl and its report"
    )
    return _Valuation("dpo", {"beta": 1.0}, "log-probability less the reference's")


def _evaluate_rewards(
    target: str, recipe: Recipe | None, data: Spec | None, columns: dict[str, str]
) -> dict[str, Any]:
    remote = recipe is not None and recipe.trust_remote_code
    reward = RewardModel.load(target, trust_remote_code=remote)
    examples, prompts, source = _examples(
        target, recipe, data, columns, reward.tokenizer, reward.max_length
    )
    comparisons = sum(len(e.comparisons) for e in examples)
    if not comparisons:
        raise DataError(f"{source} holds no pairs to measure on")
    cost = tree_cost if reward.scorer.name == "tree" else padded_cost
    device = next(reward.model.parameters()).device
    task = reward_task(in_precision(reward.scorer.logps, device), label_smoothing=0.0, centring=0.0)
    batches = track(
        all_once(examples, SCORING_TOKENS, cost, feed_last=True),
        what="scoring",
        total=len(examples),
        size=lambda b: len(b.examples),
    )
    check_examples(reward.model, examples, target)
    count = sum(len(e.responses) for e in examples)
    found = evaluate(reward.model, task, batches, count)
    rewards = found.pi_logps
    return {
        "model": target,
        "data": source,
        "prompts": prompts,
        "pairs": comparisons,
        "score": "reward",
        "loss": found.metrics["loss"],
        **_pair_numbers(examples, rewards),
        "reward_mean": float(rewards.astype(np.float64).mean()) - reward.mean,
        "reward_std": float(rewards.astype(np.float64).std()),
        **reward_findings(examples, rewards),
    }


def print_evaluation(result: dict[str, Any]) -> None:
    """The same for a person."""
    low, high = result["interval"]
    say(f"{result['model']} on {result['data']}: {result['pairs']:,} pairs")
    say(
        f"  accuracy  {result['accuracy']:.1%} by {result['score']} "
        f"(95 % interval {low:.1%} to {high:.1%}; a coin toss is 50 %)"
    )
    say(f"  margin    {fixed(result['margin'], sign=True)} on average")
    if "calibration" in result:
        _print_reward(result)
    if "reference" in result:
        say(f"  against   {result['reference']}, beta {result['beta']}")
        say(
            f"  log-probability change: chosen "
            f"{fixed(result['chosen_logp_change'], 2, sign=True)}, rejected "
            f"{fixed(result['rejected_logp_change'], 2, sign=True)} nats"
        )


def _print_reward(result: dict[str, Any]) -> None:
    say(f"  loss      {fixed(result['loss'])} (ln 2 = 0.6931 is no preference)")
    say(
        f"  rewards   mean {fixed(result['reward_mean'], sign=True)}, deviation "
        f"{fixed(result['reward_std'])}; "
        f"correlation with length {_or_none(result['length_correlation'])}"
    )
    found = result["calibration"]
    say(f"  calibration error {fixed(found['expected_error'])}; of the response with more reward:")
    for row in found["bins"]:
        say(
            f"    predicted {row['predicted']:.2f}  preferred {row['observed']:.2f}  "
            f"({row['pairs']:,} pairs)"
        )


def _or_none(value: float | None) -> str:
    return "none" if value is None else fixed(value, 2, sign=True)


def _examples(
    target: str,
    recipe: Recipe | None,
    data: Spec | None,
    columns: dict[str, str],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
) -> tuple[list[Example], int, str]:
    """Examples, the prompts in them, and what they are, in words. A prompt with many responses is
    several examples, and prompts that became the same tokens are one."""
    own = data is None
    if own:
        if recipe is None:
            raise RecipeError(f"{target} is a model, not a run; name the pairs by --data")
        if recipe.stage == "sft":
            raise RecipeError(f"{target} is an SFT run without pairs; name some by --data")
        if recipe.stage == "rl":
            raise RecipeError(f"{target} is an RL run, of prompts; name pairs by --data")
        data = recipe.eval_data or recipe.data
    assert data is not None
    mapped = columns or (recipe.columns if own and recipe else {})
    rows = load_records(data, purpose="preference", columns=mapped or None)
    longest = (recipe.max_length if recipe else None) or context_length
    with template_clock(recipe.template_date if recipe else None):
        tokens = tokenize_records(rows.records, tokenizer, max_length=longest)
    set_aside = len(rows.dropped) + len(tokens.dropped)
    if set_aside:
        warn(f"{set_aside:,} of {rows.rows_read:,} rows set aside as unusable")
    examples, source = tokens.examples, named(data)
    if own and recipe and recipe.eval_data is None:
        fraction = fraction_of(recipe.eval_fraction, sum(len(e.comparisons) for e in examples))
        _, examples = split_by_prompt(examples, fraction=fraction, seed=recipe.seed)
        source = f"the held-out pairs of {source}"
    return group_by_prompt(examples), len({e.prompt_key for e in examples}), source


def _response_logps(loaded: Loaded, examples: list[Example], whose: str) -> np.ndarray:
    """(responses,) float32 by response index."""
    check_examples(loaded.model, examples, f"the {whose}")
    device = next(loaded.model.parameters()).device
    scorer = scorer_for(loaded.model)
    batches, count = _batches(scorer, examples, whose)
    task = sft_task(in_precision(scorer.logps, device))  # its loss is not looked at
    return evaluate(loaded.model, task, batches, count).pi_logps


def _response_values(
    policy: Loaded, examples: list[Example], valuation: _Valuation, ref_logps: np.ndarray
) -> Valued:
    """Log-probabilities and rewards under a policy."""
    check_examples(policy.model, examples, "the policy")
    scorer = scorer_for(policy.model)
    score = in_precision(scorer.logps, next(policy.model.parameters()).device)
    task = preference_task(valuation.loss, valuation.options, score, cached_reference(ref_logps))
    batches, count = _batches(scorer, examples, "policy")
    found = evaluate(policy.model, task, batches, count).valued
    assert found is not None, "this task compares by rewards"
    return found


def _batches(
    scorer: Scorer, examples: list[Example], whose: str
) -> tuple[Iterable[TreeBatch], int]:
    """All examples once, with their progress, and how many responses they have."""
    cost = tree_cost if scorer.name == "tree" else padded_cost
    batches = track(
        all_once(examples, SCORING_TOKENS, cost),
        what=f"scoring, {whose}",
        total=len(examples),
        size=lambda b: len(b.examples),
    )
    return batches, sum(len(e.responses) for e in examples)


def _pair_numbers(
    examples: list[Example], score: np.ndarray, rounding: np.ndarray | None = None
) -> dict[str, Any]:
    """score, rounding: (responses,) by index; a lead within the rounding of its pair is a tie."""
    chosen, rejected = (
        np.array([e.response_base + getattr(c, side) for e in examples for c in e.comparisons])
        for side in ("chosen", "rejected")
    )
    margins = score[chosen].astype(np.float64) - score[rejected]
    if rounding is not None:
        margins[np.abs(margins) <= rounding[chosen] + rounding[rejected]] = 0
    right = np.where(margins == 0, 0.5, margins > 0).tolist()  # ties count one half
    prompts = [e.prompt_key for e in examples for _ in e.comparisons]
    found = clustered_share(zip(prompts, right, strict=True))
    return {
        "accuracy": found.value,
        "interval": [found.low, found.high],
        "margin": float(margins.mean()),
    }


def _mean_change(examples: list[Example], change: np.ndarray, side: str) -> float:
    values = [change[e.response_base + getattr(c, side)] for e in examples for c in e.comparisons]
    return float(np.mean(values))
