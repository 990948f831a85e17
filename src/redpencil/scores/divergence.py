"""How far a policy is from its reference: KL(policy || reference) of whole responses, in nats.

By the chain rule the KL of whole responses is the expected sum, over the tokens of a response that
the policy drew, of the KL between the two distributions of the next token. Wherever a KL is shown
it is this, estimated from drawn responses; each token's summand is

    sum_v pi_v (d_v - 1 + exp(-d_v)),   d_v = log pi_v - log pi_ref_v,

whose terms are never negative and whose sum is sum_v pi_v d_v. Averaged over the vocabulary like
this it has no more chance in it than which prefixes were drawn. (The plain mean of d over the drawn
tokens falls below 0 near the reference. The summand at the drawn token alone, known as k3, does
not, but beyond a nat a token its average rests on tokens that are hardly ever drawn: where a
policy has collapsed on one token it misses up to a nat a token and shows a small error. It is left
to rollouts in training, of which nothing else is at hand.)

E: scored tokens of all responses. B: responses. R: rows of a block. V: vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redpencil.models.head import output_head
from redpencil.scores.chunked import CHUNK_ELEMENTS, all_logps, product_dtype
from redpencil.scores.forward import states_before_scored
from redpencil.scores.oracle import oracle_rows, wide_dtype
from redpencil.types import TreeBatch


@dataclass(frozen=True, slots=True, eq=False)
class NextTokens:
    """The distributions of the next token from which a batch's E scored tokens were drawn.

    logps: of some of the E, (R,) indices -> (R, V) log-probabilities, float32.
    """

    vocabulary: int
    logps: Callable[[Tensor], Tensor]


Distributions = Callable[[nn.Module, TreeBatch], NextTokens]
"""(model, batch) -> the distributions; call it without gradients."""


def tree_distributions(model: nn.Module, batch: TreeBatch) -> NextTokens:
    """From one forward over trees; the head is applied when rows are asked for."""
    hidden_ED = states_before_scored(model, batch)
    head = output_head(model)
    compute = product_dtype(hidden_ED, head.weight)

    def logps(at: Tensor) -> Tensor:
        rows = hidden_ED.index_select(0, at)
        return all_logps(
            rows, head.weight, head.bias, compute=compute, scale=head.scale, softcap=head.softcap
        )

    return NextTokens(len(head.weight), logps)


def oracle_distributions(model: nn.Module, batch: TreeBatch) -> NextTokens:
    """From a padded forward of every response."""
    logits_EV = oracle_rows(model, batch)

    def logps(at: Tensor) -> Tensor:
        return torch.log_softmax(logits_EV.index_select(0, at).float(), dim=-1)

    return NextTokens(logits_EV.shape[1], logps)


def response_kl(policy: NextTokens, reference: NextTokens, batch: TreeBatch) -> Tensor:
    """(B,) float64 on the CPU, none below 0: for each response the sum over its tokens of the KL
    between policy and reference, whose mean over responses drawn from the policy is the KL.

    Where one vocabulary was padded to more entries than the other, these are left out.
    """
    device = batch.path_response.device
    entries = min(policy.vocabulary, reference.vocabulary)
    count = len(batch.path_response)
    rows = max(1, CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cpu"]) // entries)
    of_token_E = torch.zeros(count, dtype=torch.float64)
    for begin in range(0, count, rows):
        at = torch.arange(begin, min(begin + rows, count), device=device)
        ours, theirs = (d.logps(at)[:, :entries] for d in (policy, reference))
        of_token_E[begin : begin + len(at)] = _of_rows(ours, theirs).cpu().double()
    sums_B = torch.zeros(len(batch.lengths), dtype=torch.float64)
    return sums_B.index_add(0, batch.path_response.cpu(), of_token_E)


def drawn_token_kl(pi_logps: Tensor, ref_logps: Tensor) -> Tensor:
    """d - 1 + exp(-d) of drawn tokens, of the shape given; never negative. For where the whole
    distributions are not at hand."""
    difference = pi_logps - ref_logps
    difference = difference.to(wide_dtype(difference))
    return difference + torch.expm1(-difference)


def _of_rows(ours: Tensor, theirs: Tensor) -> Tensor:
    """(R,) from (R, V) log-probabilities. Near each other, where p d - p + q would be
    rounding alone, the difference goes through expm1."""
    p, q, d = ours.exp(), theirs.exp(), ours - theirs
    terms = torch.where(d.abs() < 1, p * (d + torch.expm1(-d)), p * d - p + q)
    terms = torch.where(p > 0, terms, q)  # log 0 times 0 is 0
    return terms.sum(dim=1, dtype=wide_dtype(terms)).clamp_min(0.0)
