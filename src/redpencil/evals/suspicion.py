"""How many labels are wrong, and which: what out-of-fold log-odds say about them.

Labels are taken to be flipped at random at a rate e, whoever is right, so a pair with out-of-fold
log-odds m has the label it has with probability

    q(m) = e + (1 - 2 e) sigma(a m):

a logistic curve that does not reach 0 and 1 (in psychophysics, a lapse rate). Where the model is
sure and the labels still disagree at a steady rate, that rate is e; a model that is merely weak has
a flat curve and no such plateau. Both e and a are fitted by maximum likelihood, and by Bayes' rule
a label is right with probability (1 - e) sigma(a m) / q(m).

The curve's form is an assumption. A weak model bends it, and then e comes out too high. So suspects
are named at the low end of e's interval, and none where the model hardly agrees with the labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RATES = np.arange(0.0, 0.455, 0.005)
SCALES = np.exp(np.linspace(-2.5, 3.0, 56))
MOST_BINS = 512
RESAMPLED = 400
CAUTION = 10.0
"""Percentile of the rate, over resampled prompts, at which suspects are named."""
LOWEST_ACCURACY = 0.6
"""Agreement with unseen labels below which no label is called wrong. In trials, models that agreed
with 53 to 60 % of the labels named lists of which 9 to 28 % were wrong, and took them for 65 %."""


@dataclass(frozen=True, slots=True, eq=False)
class Suspicion:
    """What cross-fitting says of T labels.

    accuracy: share of labels that the model, not having seen them, agrees with; interval: 95 %.
    rate: estimated share of wrong labels; rate_interval: 95 %. cautious_rate: its percentile
    CAUTION, at which `right` was computed: (T,) probability that each label is right. refusal: why
    the model is not good enough for any label to be called wrong; None if it is.
    """

    accuracy: float
    interval: tuple[float, float]
    rate: float
    rate_interval: tuple[float, float]
    cautious_rate: float
    right: np.ndarray
    refusal: str | None

    @property
    def suspects(self) -> np.ndarray:
        """Indices of the labels that are more likely wrong than right, the most suspect first."""
        if self.refusal is not None:
            return np.zeros(0, dtype=np.int64)
        order = np.argsort(self.right, kind="stable")
        return order[self.right[order] < 0.5]

    @property
    def expected_precision(self) -> float | None:
        """Share of the suspects that is expected to be wrong; None where there are none."""
        found = self.suspects
        return float(1.0 - self.right[found].mean()) if len(found) else None


def suspicion(
    margins: np.ndarray, targets: np.ndarray, keys: Sequence[str], *, seed: int = 0
) -> Suspicion:
    """Judge T labels by out-of-fold log-odds (T,).

    targets: (T,) probability that each label gives. keys: of each pair its prompt; intervals come
    from resampling whole prompts, for pairs of one prompt are not independent.
    """
    agrees = np.where(margins == 0, 0.5, np.where(margins > 0, targets, 1 - targets))
    which, middle = _bins(margins)
    sums = np.stack([_sums(c, agrees, targets, which) for c in _resamples(keys, seed)])
    accuracies = sums[:, 0].sum(axis=1) / sums[:, 1:].sum(axis=(1, 2))
    low, high = np.percentile(accuracies[1:], [2.5, 97.5])
    likelihood = _likelihoods(sums[:, 1], sums[:, 2], middle)
    whole, draws = likelihood[0], likelihood[1:].max(axis=2)
    rates = RATES[draws.argmax(axis=1)]
    at = int(np.searchsorted(RATES, np.percentile(rates, CAUTION), side="right")) - 1
    cautious, scale = float(RATES[at]), float(SCALES[whole[at].argmax()])
    return Suspicion(
        accuracy=float(accuracies[0]),
        interval=(float(low), float(high)),
        rate=float(RATES[whole.max(axis=1).argmax()]),
        rate_interval=(float(np.percentile(rates, 2.5)), float(np.percentile(rates, 97.5))),
        cautious_rate=cautious,
        right=right_given(margins, cautious, scale),
        refusal=_refusal(float(accuracies[0]), float(low)),
    )


def right_given(margins: np.ndarray, rate: float, scale: float) -> np.ndarray:
    """(T,) probability that a label is right, given the model's log-odds for it (Bayes' rule)."""
    odds = np.log1p(-rate) - np.log(max(rate, 1e-300)) + scale * margins
    return 0.5 * (1.0 + np.tanh(odds / 2))


def _refusal(accuracy: float, low: float) -> str | None:
    agrees = f"on prompts that it has not seen, the model agrees with {accuracy:.1%} of the labels"
    if low <= 0.5:
        return f"{agrees}, which may be chance: it cannot tell a wrong label from a right one"
    if low < LOWEST_ACCURACY:
        return (
            f"{agrees}, hardly more than a coin toss: what it takes for wrong labels would mostly "
            "be pairs that it does not understand"
        )
    return None


def _resamples(keys: Sequence[str], seed: int) -> Iterator[np.ndarray]:
    """(T,) how often each pair counts: once, then as when whole prompts are drawn anew."""
    names, which = np.unique(np.asarray(keys), return_inverse=True)
    rng = np.random.default_rng(seed)
    yield np.ones(len(which))
    for _ in range(RESAMPLED):
        drawn = rng.integers(0, len(names), len(names))
        yield np.bincount(drawn, minlength=len(names))[which].astype(np.float64)


def _bins(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) bin of each pair and (bins,) mean log-odds of each: nearly equal ones are one, so that
    all resamples become one matrix product."""
    bins = min(MOST_BINS, len(margins))
    which = np.empty(len(margins), dtype=np.int64)
    which[np.argsort(margins, kind="stable")] = np.arange(len(margins)) * bins // len(margins)
    return which, np.bincount(which, margins, bins) / np.bincount(which, minlength=bins)


def _sums(
    counts: np.ndarray, agrees: np.ndarray, targets: np.ndarray, which: np.ndarray
) -> np.ndarray:
    """(3, bins) sums over the pairs of each bin: agreement, labels as given, labels reversed."""
    bins = int(which.max()) + 1
    values = (agrees, targets, 1 - targets)
    return np.stack([np.bincount(which, counts * value, bins) for value in values])


def _likelihoods(given: np.ndarray, reversed_: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """(R, rates, scales) log-likelihood of labels counted by (R, bins) at (bins,) log-odds."""
    curve = 0.5 * (1.0 + np.tanh(SCALES[:, None] * middle / 2))
    q = RATES[:, None, None] + (1 - 2 * RATES[:, None, None]) * curve
    q = np.clip(q, 1e-300, 1 - 1e-16).reshape(-1, len(middle)).T
    total: np.ndarray = given @ np.log(q) + reversed_ @ np.log1p(-q)
    return total.reshape(len(given), len(RATES), len(SCALES))
