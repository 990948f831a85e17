"""Sizes and hyper-parameters of the demo and the frontier, found by trial on two CPU cores."""

from dataclasses import dataclass, field

DEMO_STAGES = (
    "a world of film reviews in which the true reward of every text is known",
    "a language model of reviews, trained from scratch",
    "its completions, labelled as people would (Bradley-Terry)",
    "DPO on those preferences",
    "the true reward and the KL on prefixes that were held out",
)
"""What the demo does, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What the demo runs with: a minute on two quiet cores, most of it for SFT."""

    reviews: int = 12_000
    """Reviews for SFT, seen once. Fewer leave more broken phrases in the samples."""
    sft_batch_size: int = 16
    """Reviews a step. Many small steps teach the grammar better than few large ones."""
    sft_learning_rate: float = 6e-3
    """Peak, after the warm-up, then linear to 0. AdamW without weight decay."""
    sft_warmup_steps: int = 20

    train_prefixes: int = 600
    """Prefixes that the SFT model completes for preferences."""
    completions: int = 4
    """For each prefix: six comparisons from four sequences."""
    eval_prefixes: int = 300
    """Held-out prefixes on which reward and KL are measured, one completion each."""
    max_new_tokens: int = 96
    temperature: float = 1.0
    """Of sampling, with neither top-k nor top-p: the KL is that of the very model."""
    label_temperature: float = 0.25
    """Of the Bradley-Terry labels: a lead of 1 in true reward wins with sigma(4) = 98 %. The
    labels are then those of the reward r / 0.25, so the optimum that DPO aims at is
    pi_ref exp(r / (0.25 beta)) / Z. In trials with 800 prefixes and beta 0.1, temperature 1 at
    rate 1e-3 gained 0.60 for a KL of 3.1 nats, temperature 0.25 at rate 5e-4 0.54 for 1.4."""

    dpo_beta: float = 0.2
    dpo_batch_size: int = 16
    """Prefixes a step, each with its six comparisons."""
    dpo_epochs: int = 2
    dpo_learning_rate: float = 5e-4
    """Peak, after the warm-up, then linear to 0. At 7e-4 the reward rose further (+1.19 instead of
    +1.04) and more samples broke (94.3 % read as reviews instead of 96.0 %); 1.5e-3 broke a
    fifth of the samples."""
    dpo_warmup_steps: int = 5

    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierSettings:
    """What the frontier runs with: at most 15 minutes on two cores, three seeds of each run."""

    world: DemoSettings = field(
        default_factory=lambda: DemoSettings(reviews=24_000, train_prefixes=1_500)
    )
    """The same world as the demo's, with a reference that has read twice as much."""

    prefixes: int = 150
    """Held-out prefixes on which every policy is measured: the same ones, so they cancel out."""
    completions: int = 2
    """Of each prefix, for each point."""
    looks: int = 2
    """Points of a training run, equally spaced; the last one is where it ends."""
    reference_completions: int = 64
    """Of each prefix, from pi_ref: for best-of-n and for the optimum."""
    proposals: int = 2
    """Trained policies that help to sample the optimum where pi_ref hardly ever goes."""
    proposal_completions: int = 32
    """Of each prefix, from each of them."""
    best_of: tuple[int, ...] = (2, 4, 8, 16, 32, 64)

    dpo_betas: tuple[float, ...] = (0.1, 0.4, 1.6)
    dpo_steps: int = 120
    unlikelihood_alphas: tuple[float, ...] = (0.05, 0.1, 0.5, 1.0)
    """The paper's."""
    unlikelihood_steps: int = 30
    unlikelihood_learning_rate: float = 5e-4
    preferred_steps: int = 60
    preferred_learning_rate: float = 5e-4
    reward_steps: int = 90
    reward_learning_rate: float = 1e-3
    rl_temperatures: tuple[float, ...] = (0.05, 0.2)
    """Of the optimum that PPO aims at: beta for the true reward r. A reward model learns that of
    its labels, r / label_temperature, so its beta is larger by as much."""
    rl_steps: int = 60
    rl_learning_rate: float = 5e-4
    rl_batch_size: int = 16
    """Prompts a step, with `rl_num` rollouts each."""
    rl_num: int = 4


def tiny_frontier() -> FrontierSettings:
    """The whole command in seconds, for tests: nothing is learned, everything is run."""
    world = DemoSettings(
        reviews=64,
        sft_warmup_steps=1,
        train_prefixes=12,
        dpo_batch_size=4,
        max_new_tokens=24,
    )
    return FrontierSettings(
        world=world,
        prefixes=6,
        completions=2,
        looks=2,
        reference_completions=6,
        proposals=1,
        proposal_completions=4,
        best_of=(2, 4),
        dpo_betas=(0.1, 1.0),
        dpo_steps=2,
        unlikelihood_alphas=(0.5,),
        unlikelihood_steps=2,
        preferred_steps=2,
        reward_steps=2,
        rl_temperatures=(0.1,),
        rl_steps=4,
        rl_batch_size=4,
        rl_num=2,
    )
