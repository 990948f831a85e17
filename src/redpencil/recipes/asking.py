"""Options of `generate` and `judge`, declared once for command line, recipe files and Python."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from redpencil.places import path_of
from redpencil.recipes.checked import Checked, DataSpec, Separator

PAIRS = "pairs.jsonl"
"""The file in the folder of a recipe file's generate stage."""

FREE_TO_CHANGE = frozenset({"out", "parallel", "judge_timeout", "price"})
"""Options that may differ where a stopped job goes on: none changes what is asked."""


class JudgeOptions(Checked):
    """Where a chat model is that judges, and how it is asked."""

    judge_url: str | None = Field(
        None, description="a chat model that judges: an OpenAI-compatible URL, ending in /v1"
    )
    judge_model: str | None = Field(None, description="the name of the model at --judge-url")
    judge_template: str | None = Field(
        None, description="a Jinja file with the judge's question, instead of ours"
    )
    judge_tokens: int = Field(512, ge=1, description="most tokens of the judge's reply")
    judge_timeout: float = Field(60.0, gt=0, description="seconds that a reply may take")
    parallel: int = Field(4, ge=1, le=256, description="requests to the judge at once")

    @model_validator(mode="after")
    def _judge_is_whole(self) -> Self:
        if self.judge_url is None:
            for name in ("judge_model", "judge_template", "judge_tokens", "judge_timeout"):
                if name in self.model_fields_set and getattr(self, name) is not None:
                    raise ValueError(f"{name} does nothing without judge_url")
            if "parallel" in self.model_fields_set:
                raise ValueError("parallel does nothing without judge_url")
        elif self.judge_model is None:
            raise ValueError("judge_model is missing: the name of the model at judge_url")
        return self


class SamplingOptions(JudgeOptions):
    """How completions are drawn."""

    temperature: float = Field(1.0, ge=0, description="of the sampling; 0 is greedy")
    max_new_tokens: int = Field(128, ge=1, description="most tokens of a completion")
    seed: int = Field(0, ge=0, description="of sampling, labels and intervals")
    columns: dict[str, str] = Field(
        default_factory=dict, description="your column names: prompt=question"
    )
    chat_template: str = Field(
        "auto", description="auto (the run's, or the tokenizer's), none, or a Jinja file"
    )
    separator: Separator = Field(
        None, description="between prompt and answer of plain text; default: the model's, or none"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with a model")


class GenerateRecipe(SamplingOptions):
    """Completions of prompts, and preferences between them where someone labels them."""

    stage: Literal["generate"] = "generate"
    model: str = Field(description="a run or a model")
    data: DataSpec | None = Field(None, description="data files whose prompts are taken")
    out: str | None = Field(None, description="write rows as JSONL; the same command goes on")
    num: int = Field(1, ge=1, description="completions of a prompt")
    label: str | None = Field(
        None, description="compare them by a reward: a model, module:function, or answer"
    )
    label_by: Literal["sign", "bradley-terry"] = Field(
        "sign", description="the higher reward wins always, or with its Bradley-Terry probability"
    )
    label_temperature: float | None = Field(
        None, gt=0, description="rewards are divided by it; of bradley-terry (1.0)"
    )

    @property
    def labelled(self) -> bool:
        """Whether the rows will hold comparisons."""
        return self.label is not None or self.judge_url is not None

    @field_validator("model")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value

    @model_validator(mode="after")
    def _labels_have_what_they_need(self) -> Self:
        if self.label is not None and self.judge_url is not None:
            raise ValueError("label and judge_url both compare; give one of them")
        if self.labelled and self.num < 2:
            raise ValueError("num must be at least 2: labels compare completions")
        if self.labelled and self.out is None:
            raise ValueError("out is missing: labels are written to a file")
        if self.label is None and "label_by" in self.model_fields_set:
            raise ValueError("label_by does nothing without label")
        if self.label_by == "sign" and self.label_temperature is not None:
            raise ValueError("label_temperature does nothing without label_by bradley-terry")
        return self


class JudgeRecipe(SamplingOptions):
    """The win rate of A over B on prompts, by a reward or by a chat model."""

    a: str = Field(description="a run, a model, a JSONL file with responses, or data:COLUMN")
    b: str = Field(description="what A is judged against, of the same kinds")
    data: DataSpec | None = Field(
        None, description="data files whose prompts are taken; default: those A's run held out"
    )
    out: str = Field(description="folder of answers, transcript and result; the same goes on")
    by: str | None = Field(None, description="a reward: a model, module:function, or answer")
    limit: int | None = Field(None, ge=1, description="judge on the first N prompts only")
    price: tuple[float, float] | None = Field(
        None, description="of a million prompt and completion tokens: 0.15,0.6"
    )

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if (self.by is None) == (self.judge_url is None):
            raise ValueError("by (a reward) or judge_url (a chat model) is needed, one of the two")
        if self.price is not None and self.judge_url is None:
            raise ValueError("price does nothing without judge_url")
        if self.price is not None and min(self.price) < 0:
            raise ValueError("price must not be negative")
        return self


def settings_of(recipe: SamplingOptions) -> dict[str, Any]:
    """What a stopped job must be repeated with. JSON-ready. A template counts by what it says."""
    settings = recipe.model_dump(mode="json", exclude=set(FREE_TO_CHANGE))
    template = settings.get("judge_template")
    if template is not None and path_of(template).is_file():
        said = hashlib.blake2b(path_of(template).read_bytes(), digest_size=4).hexdigest()
        settings["judge_template"] = f"{template} (content {said})"
    return settings


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In words; empty where there are none."""
    return "; ".join(
        f"--{name.replace('_', '-')} was {stored.get(name)!r} and is now {value!r}"
        for name, value in asked.items()
        if stored.get(name) != value
    )
