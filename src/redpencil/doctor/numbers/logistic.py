"""Logistic regression on sparse differences, chosen minus rejected: a Bradley-Terry model.

Each row is a pair's features on the chosen side less those on the rejected one, so there is no
intercept and every label is 1: loss = sum_i w_i log(1 + exp(-x_i . b)) + L2 / 2 |b|^2, minimised by
Newton's method with conjugate gradients. The loss is convex: the result depends on nothing else.
"""

from dataclasses import dataclass

import numpy as np

L2 = 3.0
"""A feature that speaks in three pairs gets about half the coefficient that they ask for."""
NEWTON_STEPS, CG_STEPS = 12, 30
"""At most; three to five of each are the rule: what is left of the gradient is divided by ten and
more in each Newton step, and 1e-3 in a coefficient moves no pair to the other side."""
FOLDS = 5
FOLD_BITS = 0xFFFFFF
"""The low bits of a prompt's hash say its fold: a sample of small hashes leaves them fair."""


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """(rows, columns) sparse matrix: entry e is values[e] at (row[e], column[e]).

    weight: (rows,) how much each pair counts. group: (rows,) uint64; pairs of one prompt have one
    group and are never on both sides of a split.
    """

    row: np.ndarray
    column: np.ndarray
    values: np.ndarray
    weight: np.ndarray
    group: np.ndarray
    columns: int

    @property
    def rows(self) -> int:
        return len(self.weight)

    def times(self, b: np.ndarray) -> np.ndarray:
        """X b: (rows,)."""
        return np.bincount(self.row, weights=self.values * b[self.column], minlength=self.rows)

    def transposed_times(self, a: np.ndarray) -> np.ndarray:
        """X^T a: (columns,)."""
        return np.bincount(self.column, weights=self.values * a[self.row], minlength=self.columns)


def fit(data: Differences, keep: np.ndarray | None = None, l2: float = L2) -> np.ndarray:
    """(columns,) coefficients from the rows where `keep` is true."""
    weight = data.weight if keep is None else data.weight * keep
    b = np.zeros(data.columns)
    for _ in range(NEWTON_STEPS):
        wrong = _sigmoid(-data.times(b))
        gradient = data.transposed_times(weight * wrong) - l2 * b
        curvature = weight * wrong * (1 - wrong)
        step = _solve(data, curvature, gradient, l2)
        b += step
        if np.abs(step).max(initial=0.0) < 1e-3:
            break
    return b


def held_out_scores(data: Differences, folds: int = FOLDS) -> np.ndarray:
    """(rows,) x_i . b with b fitted to the other folds; above 0 where a pair is ordered right."""
    fold = fold_of(data.group, folds)
    scores = np.zeros(data.rows)
    for number in range(folds):
        held_out = fold == number
        scores[held_out] = data.times(fit(data, keep=~held_out))[held_out]
    return scores


def fold_of(group: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Which fold a prompt is in: its hash says, so a row more moves no other."""
    return (group & np.uint64(FOLD_BITS)) % np.uint64(folds)


def right_share(scores: np.ndarray) -> np.ndarray:
    """(rows,) 1 for right, 0 for wrong, one half for undecided."""
    return (np.sign(scores) + 1) / 2


def _solve(data: Differences, curvature: np.ndarray, gradient: np.ndarray, l2: float) -> np.ndarray:
    """(X^T C X + l2 I)^-1 gradient by conjugate gradients."""
    solution = np.zeros_like(gradient)
    residual = direction = gradient
    norm = residual @ residual
    for _ in range(CG_STEPS):
        if norm <= 1e-3 * (gradient @ gradient):
            break
        image = data.transposed_times(curvature * data.times(direction)) + l2 * direction
        length = norm / (direction @ image)
        solution = solution + length * direction
        residual = residual - length * image
        before, norm = norm, residual @ residual
        direction = residual + norm / before * direction
    return solution


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
