"""Supervised fine-tuning: maximum likelihood of responses given their prompts."""

from redpencil.types import Outcome, Pairs, Scores


def sft(scores: Scores, pairs: Pairs) -> Outcome:
    """Negative log-likelihood of each response (B,), times its weight.

    To be divided by the count of scored tokens, so the mean is nats per token and the perplexity
    its exponential (with weights of 1). Comparisons play no part; there is no implicit reward.
    """
    return Outcome(losses=-scores.pi_logps * scores.weights, rewards=None)
