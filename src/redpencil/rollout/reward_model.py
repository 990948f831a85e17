"""A saved reward model as a reward: prompts and responses in, numbers out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.data.contents import Row
from redpencil.data.group import group_by_prompt
from redpencil.data.loader import all_once
from redpencil.data.packing import padded_cost, tree_cost
from redpencil.data.tokenize import tokenize_records
from redpencil.errors import ModelError, RewardError
from redpencil.models.check import check_examples, check_model
from redpencil.models.configs import is_encoder
from redpencil.models.load import load_model, pick_device
from redpencil.models.padding import settle_padding
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.places import path_of
from redpencil.scores.forward import Scorer
from redpencil.scores.in_memory import in_memory
from redpencil.scores.rewards import reward_scorer_for
from redpencil.types import Content, Message, Origin, Record

SCORING_TOKENS = 8192
"""Token slots in a micro-batch: nothing is kept for a backward pass."""

SCALE = ("reward_mean", "reward_std")
"""Where a saved reward model's config says what its rewards look like before they are centred."""


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A sequence classifier with one label.

    mean, std: of its rewards over the completions it was centred on. max_length: most tokens of a
    prompt with its response; longer prompts lose their beginning. chat_template: as in a recipe.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer
    max_length: int
    mean: float = 0.0
    std: float = 1.0
    chat_template: str = "auto"

    @classmethod
    def load(cls, name: str, *, trust_remote_code: bool = False) -> Self:
        """From a folder, a run of `redpencil reward` (its model) or the Hub. Raises ModelError."""
        source = _model_of(name)
        device = pick_device()
        model = load_model(
            source,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
            device=device,
            trust_remote_code=trust_remote_code,
            head="reward",
        )
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        longest = context_length(source, trust_remote_code=trust_remote_code)
        return cls.of(model, tokenizer, longest)

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, longest: int) -> Self:
        """A model at hand. longest: the positions it was made for."""
        if is_encoder(model.config):  # some count their positions from the padding id on
            longest = min(longest, tokenizer.model_max_length)
        settle_padding(model, tokenizer, [])
        mean, std = (getattr(model.config, key, None) for key in SCALE)
        return cls(
            model=model,
            tokenizer=tokenizer,
            scorer=reward_scorer_for(model),
            max_length=longest,
            mean=0.0 if mean is None else float(mean),
            std=1.0 if std is None else float(std),
        )

    def __call__(
        self,
        prompts: Sequence[str | Sequence[Message]],
        responses: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
    ) -> list[float]:
        """The reward of each response to its prompt, less the mean it was centred on.

        A text prompt is one user turn where the tokenizer has a chat template; of a row its tools
        belong to the prompt. Responses to the same prompt share it. Raises RewardError where one
        cannot be scored, DataError for tools that are none.
        """
        records = list(_records(prompts, responses, rows))
        tokens = tokenize_records(
            records,
            self.tokenizer,
            max_length=self.max_length,
            chat_template=self.chat_template,
        )
        if tokens.dropped:
            first = tokens.dropped[0]
            raise RewardError(
                f"a response cannot be scored by the reward model: {first.reason} {first.detail}",
                first.origin.row,
            )
        examples = group_by_prompt(tokens.examples)
        check_examples(self.model, examples, "the reward model")
        index = torch.tensor([r.origin.row for e in examples for r in e.responses])
        flat = torch.zeros(len(index))
        device = next(self.model.parameters()).device
        cost = tree_cost if self.scorer.name == "tree" else padded_cost
        batches = all_once(examples, SCORING_TOKENS, cost, feed_last=True)
        with torch.no_grad():
            for batch, rewards in in_memory(
                batches, lambda laid: self.scorer.logps(self.model, laid.to(device)).cpu()
            ):
                flat[index[batch.response_index]] = rewards
        return [reward - self.mean for reward in flat.tolist()]


def check_reward_model(name: str, *, trust_remote_code: bool = False) -> None:
    """Raises ModelError where `RewardModel.load` would, short of reading the weights."""
    check_model(_model_of(name), head="reward", trust_remote_code=trust_remote_code)


def _model_of(name: str) -> str:
    """A run's model folder, or the name itself."""
    folder = path_of(name)
    if not (folder / "recipe.yaml").is_file():
        return name
    if not (folder / "model" / "config.json").is_file():
        config = folder / "model" / "config.json"
        raise ModelError(f"the run {name} is not finished: there is no {config} yet")
    return str(folder / "model")


def _records(
    prompts: Sequence[str | Sequence[Message]],
    responses: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[Record]:
    for i, (prompt, response, row) in enumerate(zip(prompts, responses, rows, strict=True)):
        is_text = isinstance(prompt, str)
        content: Content = prompt if isinstance(prompt, str) else tuple(prompt)
        answer: Content = response if is_text else ({"role": "assistant", "content": response},)
        yield Record(
            prompt=content,
            responses=(answer,),
            comparisons=(),
            origin=Origin("responses", i),
            tools=Row(Origin("responses", i), row).tools(),
        )
