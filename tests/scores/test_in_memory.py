"""What does not fit the memory is scored in halves, with the same result; or one clear sentence."""

import numpy as np
import pytest
import torch

from redpencil.data.group import number_responses
from redpencil.data.loader import all_once
from redpencil.errors import MemoryExceeded
from redpencil.evals.accuracy import evaluate
from redpencil.models.attention import install
from redpencil.scores.forward import tree_logps
from redpencil.scores.in_memory import in_memory
from redpencil.scores.reference import cached_reference, reference_logps
from redpencil.stages.tasks import preference_task
from redpencil.types import Comparison
from zoo import example, random_examples, tiny_model


@pytest.fixture(scope="module")
def model():
    made = tiny_model("llama")
    install(made)
    return made


def examples():
    return number_responses(
        example(
            e.prompt_ids.tolist(),
            *(r.ids.tolist() for r in e.responses),
            comparisons=[Comparison(chosen=1, rejected=0)],
        )
        for e in random_examples(5, 2, prompts=9)
    )


def limited(tokens):
    """A score that has memory for so many tokens, and what it was given."""
    given = []

    def score(model, batch):
        given.append(len(batch.input_ids))
        if len(batch.input_ids) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return tree_logps(model, batch)

    return score, given


def reference(model, score):
    return reference_logps(
        model,
        score,
        examples(),
        lay=lambda missing: all_once(missing, 1000),
        cache=None,
        track=lambda batches, total: batches,
    )


@pytest.mark.parametrize("room", [100, 40, 25])
def test_the_reference_s_pass(model, room, capsys):
    score, given = limited(room)
    np.testing.assert_allclose(reference(model, score), reference(model, tree_logps), rtol=1e-5)
    assert given[0] > 100 and sum(tokens <= room for tokens in given) > 1
    said = capsys.readouterr().err
    assert "scored in halves" in said and "Tried to allocate 2.00 GiB" in " ".join(said.split())


def test_an_evaluation(model):
    values = np.linspace(-30, -20, 18, dtype=np.float32)
    whole, cut = (
        evaluate(
            model,
            preference_task("dpo", {}, score, cached_reference(values)),
            all_once(examples(), 1000),
            18,
        )
        for score in (tree_logps, limited(40)[0])
    )
    assert cut.metrics == pytest.approx(whole.metrics, rel=1e-5)
    np.testing.assert_allclose(cut.pi_logps, whole.pi_logps, rtol=1e-5)


def test_a_single_example_that_does_not_fit_is_named(model):
    with pytest.raises(MemoryExceeded, match=r"prompt of memory, row 1 with its 2 responses, .*"):
        reference(model, limited(3)[0])


def test_what_did_not_fit_is_not_tried_again(model):
    score, given = limited(60)
    batches = [*all_once(examples(), 1000)] * 3
    assert len(list(in_memory(batches, lambda batch: score(model, batch)))) == 6
    assert sum(tokens > 60 for tokens in given) == len({t for t in given if t > 60})


def test_other_errors_stay_what_they_are():
    def fails(batch):
        raise RuntimeError("a size mismatch")

    with pytest.raises(RuntimeError, match="a size mismatch"):
        list(in_memory(all_once(examples(), 1000), fails))


def test_order_and_last_tokens_are_kept():
    laid = list(all_once(examples(), 1000, feed_last=True))
    room = len(laid[0].input_ids) // 3

    def count(batch):
        if len(batch.input_ids) > room:
            raise MemoryError
        return len(batch.examples)

    parts = list(in_memory(laid, count))
    indices = torch.cat([part.response_index for part, _ in parts])
    assert torch.equal(indices, torch.cat([batch.response_index for batch in laid]))
    assert all(part.last_token is not None for part, _ in parts)
    assert sum(number for _, number in parts) == 9 and len(parts) > 3
