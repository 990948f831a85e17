"""Objectives over comparisons "chosen beats rejected": DPO, IPO, hinge, unlikelihood.

Each is a pure function from scores to losses. Notation, as in the paper (arXiv 2305.18290):

    rhat(y) = beta (log pi(y|x) - log pi_ref(y|x))       implicit reward, up to a term in x  [5]
    h       = (log pi(w) - log pi(l)) - (log pi_ref(w) - log pi_ref(l)),  rhat_w - rhat_l = beta h

A comparison may carry a weight (multiplies the loss), a margin m (the reward lead asked of the
chosen response) and a probability p (how sure it is that chosen beats rejected). Label smoothing
eps says that any label may be flipped, so the probability that counts is

    q = p (1 - eps) + (1 - p) eps.

Log-probabilities of minus infinity are not repaired: the loss becomes non-finite and the engine
stops before the update.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from redpencil.errors import RecipeError, not_a
from redpencil.types import Outcome, Pairs, Scores


def dpo_loss(
    pi_logps: Tensor, ref_logps: Tensor, yw_idxs: Tensor, yl_idxs: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """The paper's function (appendix B, Eq. 7): -log sigma(rhat_w - rhat_l) for each pair.

    pi_logps, ref_logps: (B,) log-probabilities of the B completions under policy and reference.
    yw_idxs, yl_idxs: (T,) indices in [0, B) of the preferred and the dispreferred completion of
    each pair. beta: temperature, the strength of the KL constraint.

    Returns losses (T,), to be averaged, and rewards (B,) = beta (pi_logps - ref_logps), detached.
    Raises RecipeError for anything but such tensors.
    """
    tensors = {"pi_logps": pi_logps, "ref_logps": ref_logps, "yw_idxs": yw_idxs, "yl_idxs": yl_idxs}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != 1:
            wanted = f"a tensor of shape {'(B,)' if name.endswith('logps') else '(T,)'}"
            if isinstance(tensor, Tensor):
                raise RecipeError(f"dpo_loss: {name} is {tuple(tensor.shape)}, it must be {wanted}")
            raise not_a(f"dpo_loss: {name}", wanted, tensor)
    if pi_logps.shape != ref_logps.shape or yw_idxs.shape != yl_idxs.shape:
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise RecipeError(f"dpo_loss: lengths that do not belong together: {shapes}")
    losses = -F.logsigmoid(beta * log_ratio_lead(pi_logps, ref_logps, yw_idxs, yl_idxs))
    return losses, implicit_rewards(pi_logps, ref_logps, beta)


def log_ratio_lead(
    pi_logps: Tensor, ref_logps: Tensor | None, chosen: Tensor, rejected: Tensor
) -> Tensor:
    """h (T,): by how much the policy raised chosen over rejected, compared to the reference.

    Ratios within one model are taken first: prompt-dependent constants cancel there.
    """
    ref_logps = _reference(pi_logps, ref_logps)
    pi_log_ratios = pi_logps[chosen] - pi_logps[rejected]
    ref_log_ratios = ref_logps[chosen] - ref_logps[rejected]
    return pi_log_ratios - ref_log_ratios


def implicit_rewards(pi_logps: Tensor, ref_logps: Tensor | None, beta: float) -> Tensor:
    """rhat (B,) = beta (log pi - log pi_ref) [5], without gradient."""
    return beta * (pi_logps - _reference(pi_logps, ref_logps)).detach()


def dpo(scores: Scores, pairs: Pairs, *, beta: float, label_smoothing: float) -> Outcome:
    """DPO [7] with margins, probabilities and label smoothing (conservative DPO).

    With z = beta h - m:

        loss = weight (-q log sigma(z) - (1 - q) log sigma(-z)).

    This is the cross-entropy between "chosen wins with probability q" and a Bradley-Terry model
    with an offset, p(chosen wins) = sigma(rhat_w - rhat_l - m); the other outcome has 1 - sigma(z)
    = sigma(-z) under the same model, so the margin keeps its sign in both terms. The minimum is at
    rhat_w - rhat_l = m + log(q / (1 - q)): a positive margin asks for a larger lead, a doubtful
    label for a finite one. With m = 0 and q = 1 it is `dpo_loss`.
    """
    h = log_ratio_lead(scores.pi_logps, scores.ref_logps, pairs.chosen, pairs.rejected)
    z = beta * h - pairs.margin
    q = sureness(pairs, label_smoothing)
    losses = -q * F.logsigmoid(z) - (1 - q) * F.logsigmoid(-z)
    return _outcome(losses, scores, pairs, beta)


def ipo(scores: Scores, pairs: Pairs, *, beta: float, label_smoothing: float) -> Outcome:
    """IPO (Azar et al. 2023, arXiv 2310.12036, Eq. 17): a regression of h on 1 / (2 beta).

    h is taken over log-probabilities averaged over each response's tokens, as the authors confirm,
    so `beta` is per token here. Under flipped labels the target changes sign:

        loss = weight (q (h - 1/(2 beta))^2 + (1 - q) (h + 1/(2 beta))^2),

    with its minimum at h = (2q - 1) / (2 beta). The regression has no place for a margin: its
    target already is one. The rewards stay beta (log pi - log pi_ref) of whole responses, so they
    compare with those of the other objectives.
    """
    lengths = scores.lengths.to(scores.pi_logps.dtype)
    ref_logps = _reference(scores.pi_logps, scores.ref_logps)
    h = log_ratio_lead(scores.pi_logps / lengths, ref_logps / lengths, pairs.chosen, pairs.rejected)
    target = 1 / (2 * beta)
    q = sureness(pairs, label_smoothing)
    losses = q * (h - target).square() + (1 - q) * (h + target).square()
    return _outcome(losses, scores, pairs, beta)


def hinge(scores: Scores, pairs: Pairs, *, beta: float) -> Outcome:
    """Hinge (SLiC, arXiv 2305.10425, in the reference-normalised form of RSO, arXiv 2309.06657):

        loss = weight max(0, 1 - z),  z = beta h - m.

    It takes neither probability nor smoothing: for any q > 1/2 the expected hinge has its minimum
    at z = 1, so doubt would not move the solution.
    """
    h = log_ratio_lead(scores.pi_logps, scores.ref_logps, pairs.chosen, pairs.rejected)
    z = beta * h - pairs.margin
    return _outcome(torch.relu(1 - z), scores, pairs, beta)


def unlikelihood(scores: Scores, pairs: Pairs, *, alpha: float) -> Outcome:
    """The paper's baseline (section 6): raise log pi(y_w), lower log pi(y_l),

        loss = weight (-log pi(w) + alpha log pi(l)),

    of whole responses, as DPO takes them. alpha in [0, 1]; the paper tries 0.05, 0.1, 0.5 and 1.

    Without DPO's factor sigma(rhat_l - rhat_w), a pair that is long in order is pressed as hard as
    ever: the gradient on log pi(l) is alpha at all times, and the loss falls without bound as pi(l)
    goes to 0. Long training ruins the model; that is the baseline's point. The loss has neither
    reference nor beta; rewards are log pi - log pi_ref, where a reference is given to compare with.
    """
    losses = alpha * scores.pi_logps[pairs.rejected] - scores.pi_logps[pairs.chosen]
    rewards = None
    if scores.ref_logps is not None:
        rewards = implicit_rewards(scores.pi_logps, scores.ref_logps, beta=1.0)
    return Outcome(losses=pairs.weight * losses, rewards=rewards)


def sureness(pairs: Pairs, label_smoothing: float) -> Tensor:
    """q (T,): probability that chosen beats rejected, once labels may be flipped."""
    p, eps = pairs.probability, label_smoothing
    return p * (1 - eps) + (1 - p) * eps


def _outcome(losses: Tensor, scores: Scores, pairs: Pairs, beta: float) -> Outcome:
    rewards = implicit_rewards(scores.pi_logps, scores.ref_logps, beta)
    return Outcome(losses=pairs.weight * losses, rewards=rewards)


def _reference(pi_logps: Tensor, ref_logps: Tensor | None) -> Tensor:
    assert ref_logps is not None, "this objective needs reference log-probabilities, got None"
    # Other shapes would broadcast to a wrong loss without a word.
    assert pi_logps.ndim == 1 and pi_logps.shape == ref_logps.shape, (
        f"policy and reference log-probabilities must both be (B,), got {tuple(pi_logps.shape)} "
        f"and {tuple(ref_logps.shape)}"
    )
    return ref_logps
