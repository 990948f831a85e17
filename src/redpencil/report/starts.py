"""Where a pair stood before training: what the policy, not its reference, made of it then."""

from collections.abc import Mapping

from redpencil.report.pairs import Key
from redpencil.report.rundata import RunData

Start = tuple[float | None, float | None]
"""Log-probabilities of the chosen and the rejected answer before training, in nats."""


def starts(run: RunData) -> Mapping[Key, Start]:
    """By pair. A policy that began as its reference began with the reference's; of another one,
    only held-out pairs were measured before training."""
    if run.starts_at_reference:
        known = (*run.before, *run.after, *run.trained)
        return {p.key: (p.ref_logp_chosen, p.ref_logp_rejected) for p in known}
    return {p.key: (p.logp_chosen, p.logp_rejected) for p in run.before}
