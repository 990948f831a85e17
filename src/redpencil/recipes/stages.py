"""Recipes: every option of a stage, its default and its meaning, validated once at the edge.

The command line, the recipe files and `redpencil.train` all come through these classes, so an
option has one name, one default and one check. What a recipe leaves open (None) depends on the
data or the model and is resolved by `resolve`; the resolved recipe is printed and kept in
`RUN/recipe.yaml`.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from redpencil.errors import RecipeError, did_you_mean, not_a
from redpencil.recipes.checked import Checked, DataSpec, Separator, reading_stored, validated
from redpencil.recipes.foreign import foreign_loss


class Recipe(Checked):
    """What all stages share."""

    stage: str
    model: str = Field(description="model to train: a folder or a Hub name")
    data: DataSpec = Field(description="training data: files, folders or Hub data sets")
    out: str = Field(description="run folder; an existing run of the same recipe is resumed")
    eval_data: DataSpec | None = Field(
        None, description="evaluation data; default: split off --data"
    )
    eval_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of prompts split off for evaluation; default: about 100 pairs, a "
        "twentieth to a fifth of the data",
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="your column names: chosen=good,rejected=bad"
    )
    chat_template: str = Field(
        "auto", description="auto (the tokenizer's, if it has one), none, or a Jinja file"
    )
    separator: Separator = Field(
        None, description="between prompt and answer of plain text; default: the model's, or none"
    )
    template_date: str | None = Field(
        None, description="date that a chat template prints; default: the day the run began"
    )
    lora_rank: int = Field(0, ge=0, description="rank of LoRA adapters; 0 trains all weights")
    lora_alpha: float | None = Field(None, gt=0, description="LoRA scale; default: 2 x rank")
    batch_size: int = Field(32, ge=1, description="prompts in an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the training prompts")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps, instead of --epochs")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate")
    optimizer: Literal["adamw", "rmsprop"] = Field("adamw", description="update rule")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay of weight matrices")
    warmup_steps: int | None = Field(
        None, ge=0, description="steps of linear warm-up; default: a tenth of all, at most 150"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="learning rate after the warm-up"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradient clipping; 0 is off")
    max_length: int | None = Field(
        None, ge=2, description="tokens of prompt and response; default: the model's, at most 2048"
    )
    max_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="distinct tokens in a micro-batch; auto: by free memory"
    )
    activation_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="recompute activations in backward; auto: where they would not fit"
    )
    matrix_kernels: Literal["default", "onednn"] | None = Field(
        None, description="float32 products on a CPU; default: the faster exact ones, by a probe"
    )
    scoring: Literal["auto", "tree", "oracle"] = Field(
        "auto", description="tree, padded oracle, or the tree where the model can take it"
    )
    eval_every: int | None = Field(
        None, ge=1, description="steps; default: a tenth of all, at least 10"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="steps; default: a tenth of all")
    log_every: int = Field(
        10, ge=1, description="steps between lines about the loss, where no progress bar is shown"
    )
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept beside the best")
    seed: int = Field(0, ge=0, description="split, order of the data and adapters")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")

    DEFAULT_LEARNING_RATE: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    """For all weights and for adapters."""

    HEAD: ClassVar[Literal["language", "reward"]] = "language"
    """What the trained model has on top: it writes, or it gives one number."""

    @field_validator("activation_checkpointing", mode="before")
    @classmethod
    def _on_and_off(cls, value: object) -> object:
        """YAML reads `on` and `off` as booleans."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("template_date", mode="before")
    @classmethod
    def _a_day(cls, value: object) -> object:
        """As YYYY-MM-DD, whether YAML read it as a date or not."""
        if isinstance(value, date) and not isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, str):
            try:
                return date.fromisoformat(value).isoformat()
            except ValueError:
                raise ValueError(f"must be a day such as 2024-07-26, got {value!r}") from None
        return value

    @field_validator("model", "data", "out")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not all(text.strip() for text in ([value] if isinstance(value, str) else value)):
            raise ValueError("must not be empty")
        return value

    @model_validator(mode="after")
    def _alpha_needs_rank(self) -> Self:
        if self.lora_alpha is not None and not self.lora_rank:
            raise ValueError("lora_alpha does nothing without lora_rank")
        return self

    @model_validator(mode="after")
    def _decay_needs_adamw(self) -> Self:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay works with adamw only, not with {self.optimizer}")
        return self

    @model_validator(mode="after")
    def _one_evaluation_source(self) -> Self:
        if self.eval_data is not None and self.eval_fraction is not None:
            raise ValueError("eval_fraction does nothing beside eval_data; give one of them")
        return self

    @property
    def token_budget(self) -> int:
        """`max_tokens` once it is known."""
        assert isinstance(self.max_tokens, int), "max_tokens is still open"
        return self.max_tokens

    def updates(self, prompts: int) -> int:
        """Optimizer steps over so many training prompts."""
        return self.max_steps or self.epochs * -(-prompts // self.batch_size)

    def doubts(self, total_steps: int) -> list[str]:
        """What is allowed and hardly meant, in sentences, once the number of steps is known."""
        if self.warmup_steps is None or self.warmup_steps < total_steps:
            return []
        reached = f"{total_steps / self.warmup_steps:.0%} of the learning rate"
        return [
            f"--warmup-steps {self.warmup_steps} is not over within the run's {total_steps} steps, "
            f"which end at {reached}; a tenth of the steps is usual"
        ]

    def resolve(self, *, total_steps: int, max_length: int) -> Self:
        """Fill in what depends on data and model; every field then has its value."""
        tenth = max(1, total_steps // 10)
        full, adapters = self.DEFAULT_LEARNING_RATE
        open_fields: dict[str, Any] = {
            "max_steps": total_steps,
            "max_length": max_length,
            "learning_rate": adapters if self.lora_rank else full,
            "warmup_steps": min(150, total_steps // 10),
            "eval_every": max(tenth, 10),  # in a short run they would take the most time
            "checkpoint_every": tenth,
        }
        if self.lora_rank:
            open_fields["lora_alpha"] = 2.0 * self.lora_rank
        missing = {k: v for k, v in open_fields.items() if getattr(self, k) is None}
        return self.model_copy(update=missing)


class ResponsesRecipe(Recipe):
    """What the stages share whose data hold responses."""

    group_prompts: bool = Field(True, description="rows with the same prompt share one tree")


class PolicyRecipe(ResponsesRecipe):
    """What the stages share that train a model to write as its data do: they sample from it."""

    sample_prompts: int = Field(8, ge=0, description="held-out prompts sampled; 0 is off")
    sample_tokens: int = Field(96, ge=1, description="new tokens in a sample")


class SftRecipe(PolicyRecipe):
    """Supervised fine-tuning on prompt / completion rows, chats, or the chosen side of pairs."""

    stage: Literal["sft"] = "sft"

    DEFAULT_LEARNING_RATE: ClassVar[tuple[float, float]] = (2e-5, 2e-4)


class DpoRecipe(PolicyRecipe):
    """Preference optimization: DPO (paper Eq. 7) and objectives of the same family."""

    stage: Literal["dpo"] = "dpo"
    loss: str = Field("dpo", description="objective: dpo, ipo, hinge, plackett-luce, unlikelihood")
    beta: float | None = Field(None, gt=0, description="strength of the KL constraint")
    label_smoothing: float | None = Field(
        None, ge=0, lt=0.5, description="share of labels taken to be flipped (cDPO)"
    )
    alpha: float | None = Field(
        None, ge=0, le=1, description="unlikelihood: weight of lowering the rejected (0.1)"
    )
    reference: str = Field(
        "base", description="base, preferred-ft (fit to the chosen first), or a model"
    )
    cache: bool = Field(True, description="keep reference log-probabilities for other runs")

    @model_validator(mode="after")
    def _loss_takes_its_options(self) -> Self:
        from redpencil.objectives import (  # here: torch would slow every --help
            OBJECTIVES,
            objective,
        )

        if self.loss not in OBJECTIVES:
            if reading_stored():
                return self  # a run of another program: only what needs the loss asks for it
            elsewhere = foreign_loss(self.loss)
            if elsewhere is not None:
                known = ", ".join(name for name, row in OBJECTIVES.items() if row.of_preferences)
                raise ValueError(f"unknown loss {self.loss!r}; {elsewhere} (known are: {known})")
        try:
            if not objective(self.loss).of_preferences:
                raise ValueError(f"loss {self.loss!r} is not one of preferences")
            _ = self.loss_options
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def loss_options(self) -> dict[str, float]:
        """The objective's options and their values, its defaults included."""
        from redpencil.objectives import objective

        names = ("beta", "label_smoothing", "alpha")
        return objective(self.loss).settings(**{name: getattr(self, name) for name in names})

    def resolve(self, *, total_steps: int, max_length: int) -> Self:
        resolved = super().resolve(total_steps=total_steps, max_length=max_length)
        return resolved.model_copy(update=self.loss_options)


class RewardRecipe(ResponsesRecipe):
    """Reward model: Bradley-Terry on one scalar read at a response's last token (paper Eq. 2)."""

    stage: Literal["reward"] = "reward"
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of labels taken to be flipped"
    )
    centring: float = Field(
        0.0, ge=0, description="weight of (reward chosen + reward rejected)^2 in the loss"
    )
    reference: str | None = Field(
        None, description="language model whose completions get mean reward 0; default: the data's"
    )

    DEFAULT_LEARNING_RATE: ClassVar[tuple[float, float]] = (1e-5, 1e-4)
    HEAD: ClassVar[Literal["language", "reward"]] = "reward"


class RlRecipe(Recipe):
    """RL fine-tuning: maximise the reward less beta times the KL to the reference (paper Eq. 3)."""

    stage: Literal["rl"] = "rl"
    reward: str = Field(
        description="a reward model, module:function, or answer (checks the final answer)"
    )
    beta: float = Field(0.1, ge=0, description="strength of the KL constraint")
    num: int = Field(4, ge=1, description="rollouts of a prompt")
    max_new_tokens: int = Field(128, ge=1, description="most tokens of a rollout")
    advantage: Literal["rloo", "gae"] = Field(
        "rloo", description="over a prompt's other rollouts, or over a critic's values"
    )
    passes: int = Field(2, ge=1, description="steps on each batch of rollouts")
    clip: float = Field(0.2, gt=0, lt=1, description="PPO: most that a step gains from a token")
    gae_lambda: float | None = Field(None, ge=0, le=1, description="of gae (0.95)")
    value_coefficient: float | None = Field(None, gt=0, description="of the critic's loss (0.1)")
    sample_prompts: int = Field(64, ge=0, description="held-out prompts evaluated; 0 is off")

    OF_GAE: ClassVar[dict[str, float]] = {"gae_lambda": 0.95, "value_coefficient": 0.1}
    """What only a critic needs, and its defaults."""

    @model_validator(mode="after")
    def _advantage_has_what_it_needs(self) -> Self:
        if self.advantage == "rloo":
            if self.num < 2:
                raise ValueError("advantage rloo compares a prompt's rollouts; num must be above 1")
            for name in self.OF_GAE:
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} does nothing with advantage rloo; leave it out")
        return self

    @model_validator(mode="after")
    def _stops_between_rollouts(self) -> Self:
        for name in ("max_steps", "eval_every", "checkpoint_every"):
            steps = getattr(self, name)
            if steps and steps % self.passes:
                raise ValueError(
                    f"{name} {steps} must be a multiple of passes ({self.passes}): only then a "
                    "batch of rollouts is used up"
                )
        return self

    def updates(self, prompts: int) -> int:
        """Each batch of rollouts serves `passes` steps."""
        return self.max_steps or super().updates(prompts) * self.passes

    def resolve(self, *, total_steps: int, max_length: int) -> Self:
        resolved = super().resolve(total_steps=total_steps, max_length=max_length)
        changed: dict[str, Any] = {
            name: -(-getattr(resolved, name) // self.passes) * self.passes
            for name in ("eval_every", "checkpoint_every")
        }
        if self.advantage == "gae":
            open_fields = {k: v for k, v in self.OF_GAE.items() if getattr(self, k) is None}
            changed |= open_fields
        return resolved.model_copy(update=changed)


STAGES: dict[str, type[Recipe]] = {
    "sft": SftRecipe,
    "reward": RewardRecipe,
    "dpo": DpoRecipe,
    "rl": RlRecipe,
}


def make_recipe(
    stage: str, options: Mapping[str, Any], *, where: str = "", stored: bool = False
) -> Recipe:
    """A validated recipe of a stage.

    where: what a message names, "recipe.yaml, stage 2" say. stored: of a run that is only read; its
    loss need not be known here. Raises RecipeError.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(options, Mapping):
        raise not_a(f"{prefix}make_recipe", "a mapping of options", options)
    if stage not in STAGES:
        raise RecipeError(f"{prefix}unknown stage {stage!r}{did_you_mean(str(stage), STAGES)}")
    return validated(STAGES[stage], {**options, "stage": stage}, where=where, stored=stored)


def paper(model: str, data: str | Sequence[str], out: str, **options: Any) -> Recipe:
    """The settings of the paper's appendix B: RMSprop, batch 64, rate 1e-6, warm-up 150."""
    settings = {
        "optimizer": "rmsprop",
        "batch_size": 64,
        "learning_rate": 1e-6,
        "warmup_steps": 150,
        "schedule": "constant",
        "beta": 0.1,
    }
    return make_recipe("dpo", {**settings, "model": model, "data": data, "out": out, **options})
