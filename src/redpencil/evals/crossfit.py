"""Labels judged by a model that has not seen them: cross-fitted logistic regression on pairs.

A pair is the difference of its two responses' features, d = phi(chosen) - phi(rejected), and the
model says P(chosen beats rejected) = sigma(w . d). Without an intercept it is antisymmetric:
swapping the two turns p into 1 - p. The pairs are cut into folds by prompt, and each fold is judged
by weights that were fitted on the others, so a prompt never judges itself.

Letters: T comparisons, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

PENALTIES = tuple(10.0**e for e in (0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0, -3.5))
"""Strengths of the L2 penalty that are tried, from strong to weak."""
WIDTH = 4.0
"""Root mean square length of a scaled difference: fixes what a penalty means."""


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """margins: (T,) out-of-fold log-odds that chosen beats rejected. folds: (T,) int.
    weights: by the name of each set of features its mean weight in the sum."""

    margins: np.ndarray
    folds: np.ndarray
    weights: Mapping[str, float]


def folds_by_key(keys: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """(T,) fold of each pair; pairs with equal keys are never parted. Folds hold about equally many
    keys; which ones depends on the keys and the seed, not on the order of the pairs."""
    names, which = np.unique(np.asarray(keys), return_inverse=True)
    assert len(names) >= folds >= 2, (len(names), folds)
    return (np.random.default_rng(seed).permutation(len(names)) % folds)[which]


def cross_fit(
    features: Mapping[str, np.ndarray],
    targets: np.ndarray,
    keys: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
) -> CrossFit:
    """Judge every pair by what was fitted on the prompts of other folds.

    features: sets of features by name, each a (T, F) array of differences. Each set gets a
    regression of its own, with the penalty that suits it; their log-odds are added with weights
    that are fitted on the other folds, too (stacking; Wolpert 1992). targets: (T,) probability that
    the label gives, 1 where it is certain. keys: of each pair its prompt. folds: at least 3.
    """
    assert folds >= 3, "one fold is judged, one chooses the penalty, the rest are fitted"
    which = folds_by_key(keys, folds, seed)
    judged = [_margins(scaled(x), targets, which, folds) for x in features.values()]
    stacked = np.stack(judged, axis=1)
    margins = np.empty(len(targets))
    weights = np.zeros(len(judged))
    for fold in range(folds):
        others = which != fold
        own = stack(stacked[others], targets[others])
        margins[~others] = stacked[~others] @ own
        weights += own / folds
    return CrossFit(margins, which, dict(zip(features, weights.tolist(), strict=True)))


def stack(margins: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(M,) weights, none below 0, with which log-odds (T, M) of M judges are added."""
    weights = np.zeros(margins.shape[1])
    used = np.arange(margins.shape[1])
    while len(used):
        found = fit(margins[:, used], targets, 1e-6)
        if (found >= 0).all():
            weights[used] = found
            break
        used = np.delete(used, found.argmin())  # it speaks against the labels: no judge
    return weights


def fit(
    differences: np.ndarray,
    targets: np.ndarray,
    penalty: float,
    start: np.ndarray | None = None,
    tolerance: float = 1e-6,
) -> np.ndarray:
    """(F,) weights minimising mean[softplus(-m) + (1 - target) m] + penalty/2 |w|^2, m = d . w.

    differences: (T, F) float64. targets: (T,) probability that chosen beats rejected. The optimum
    is the only one; it is found by L-BFGS from `start` to a gradient below `tolerance`.
    """
    first = np.zeros(differences.shape[1]) if start is None else start.copy()
    if not len(first):
        return first
    x_TF, y_T = torch.from_numpy(differences), torch.from_numpy(targets)
    w_F = torch.from_numpy(first).requires_grad_()
    solver = torch.optim.LBFGS(
        [w_F],
        max_iter=500,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def loss() -> torch.Tensor:
        m_T = x_TF @ w_F
        value = (torch.nn.functional.softplus(-m_T) + (1 - y_T) * m_T).mean()
        w_F.grad = x_TF.T @ (torch.sigmoid(m_T) - y_T) / len(y_T) + penalty * w_F
        return value + penalty / 2 * w_F.square().sum()

    solver.step(loss)
    return w_F.detach().numpy()


def scaled(differences: np.ndarray) -> np.ndarray:
    """Each feature to the same mean square, not centred: that would break the antisymmetry."""
    x = differences.astype(np.float64)
    size = np.sqrt(np.mean(x**2, axis=0))
    kept = size > 1e-12
    return x[:, kept] / size[kept] * (WIDTH / np.sqrt(max(1, int(kept.sum()))))


def _margins(x: np.ndarray, targets: np.ndarray, which: np.ndarray, folds: int) -> np.ndarray:
    """(T,) out-of-fold log-odds from one set of features; of the folds that are fitted on, the next
    one chooses the penalty."""
    margins = np.empty(len(x))
    for fold in range(folds):
        others, inner = which != fold, which == (fold + 1) % folds
        penalty = _choose(x, targets, others & ~inner, inner)
        weights = fit(x[others], targets[others], penalty)
        margins[~others] = x[~others] @ weights
    return margins


def _choose(x: np.ndarray, targets: np.ndarray, on: np.ndarray, judged: np.ndarray) -> float:
    """The penalty with the lowest loss on pairs that were not fitted on; the strongest in a tie."""
    fitted, wanted = x[on], targets[on]
    weights: np.ndarray | None = None
    losses: list[float] = []
    for penalty in PENALTIES:  # each from the one before
        weights = fit(fitted, wanted, penalty, weights, tolerance=1e-4)
        m = x[judged] @ weights
        losses.append(float((np.logaddexp(0, -m) + (1 - targets[judged]) * m).mean()))
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break  # weaker ones only follow the noise further
    return PENALTIES[int(np.argmin(losses))]
