"""Does the model fit recipe and data: lengths, vocabulary, scoring, and what ends a text."""

from collections import Counter
from collections.abc import Iterable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.console import say, warn
from redpencil.data.chat import ChatRenderer, renderer_for
from redpencil.data.encode import Encoder
from redpencil.errors import ModelError, RecipeError
from redpencil.models.configs import token_ids
from redpencil.models.load import learned_positions
from redpencil.recipes.stages import Recipe
from redpencil.scores.forward import Scorer, oracle_scorer, scorer_for
from redpencil.scores.oracle import oracle_logps
from redpencil.scores.rewards import oracle_rewards, reward_scorer_for
from redpencil.types import Example


def check_length(model: PreTrainedModel, recipe: Recipe, context_length: int) -> None:
    assert recipe.max_length is not None, "a resolved recipe has its length"
    if recipe.max_length <= context_length:
        return
    positions = learned_positions(model)
    if positions is not None and recipe.max_length > positions:
        raise RecipeError(
            f"--max-length {recipe.max_length} does not fit {recipe.model}: it has learned "
            f"{positions} positions"
        )
    warn(
        f"--max-length {recipe.max_length} goes beyond the {context_length} positions that "
        f"{recipe.model} was made for"
    )


def choose_scorer(recipe: Recipe, model: PreTrainedModel, name: str) -> Scorer:
    rewards = recipe.HEAD == "reward"
    if recipe.scoring == "oracle":
        oracle = oracle_rewards if rewards else oracle_logps
        chosen = oracle_scorer(model, oracle, "asked for by --scoring oracle")
    else:
        chosen = reward_scorer_for(model) if rewards else scorer_for(model)
    if recipe.scoring == "tree" and chosen.name != "tree":
        raise ModelError(f"{name} cannot take trees: {chosen.reason}; use --scoring auto")
    if chosen.name == "tree":
        say(f"scoring   {name}: trees of tokens ({chosen.reason})")
    else:
        price = "slower" if rewards else "slower and with whole logits in memory"
        warn(f"{name} is scored by the padded oracle, exact but {price}: {chosen.reason}")
    return chosen


def end_token_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str,
    examples: Iterable[Example] = (),
) -> list[int]:
    """What ends a response: the special token that most training responses end with, if there are
    any, the one that the chat template ends an assistant's turn with, the model's own end tokens
    and the tokenizer's EOS."""
    ends: list[int] = []
    last = Counter(int(r.ids[-1]) for e in examples for r in e.responses)
    for token, _ in last.most_common(1):
        if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder:
            ends.append(token)
    renderer = renderer_for(Encoder(tokenizer), chat_template)
    end_of_turn = renderer.end_of_turn if isinstance(renderer, ChatRenderer) else None
    if end_of_turn is not None:
        ends.append(tokenizer.convert_tokens_to_ids(end_of_turn))
    generation = getattr(model, "generation_config", None)  # a classifier has none
    configured = getattr(generation, "eos_token_id", None)
    return token_ids(ends, configured, tokenizer.eos_token_id)
