"""Features from trees are those of a padded forward of every sequence."""

import numpy as np
import pytest
import torch

from redpencil.data.group import number_responses
from redpencil.data.tree import lay_trees
from redpencil.models.attention import install
from redpencil.models.head import backbone
from redpencil.scores.features import feature_scorer_for, oracle_features, tree_features
from zoo import ARCHITECTURES, random_examples, tiny_encoder, tiny_model


def features(score, model, examples):
    with torch.no_grad():
        return score(model, lay_trees(examples, feed_last=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trees_are_the_oracle(name):
    model = tiny_model(name)
    install(model)
    examples = number_responses(random_examples(3, 4))
    tree = features(tree_features, model, examples)
    assert tree.shape[0] == 8 and tree.shape[1] % 2 == 0
    scale = tree.abs().max()
    oracle = features(oracle_features, model, examples)
    torch.testing.assert_close(tree, oracle, atol=2e-5 * scale, rtol=1e-4)


def test_the_oracle_is_one_sequence_at_a_time():
    """Last token, and the mean of the states before each scored token, without any padding."""
    model = tiny_model("llama")
    examples = number_responses(random_examples(5, 3))
    examples[0].responses[1].scored[0] = False
    found = iter(features(oracle_features, model, examples))
    for example in examples:
        for response in example.responses:
            ids = torch.from_numpy(np.concatenate([example.prompt_ids, response.ids])).long()
            with torch.no_grad():
                hidden = backbone(model)(input_ids=ids[None]).last_hidden_state[0]
            before = [len(example.prompt_ids) + i - 1 for i in np.flatnonzero(response.scored)]
            wanted = torch.cat([hidden[-1], hidden[before].mean(dim=0)])
            torch.testing.assert_close(next(found), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["bloom", "mamba"])
def test_strangers_are_read_by_the_oracle(name):
    way = feature_scorer_for(tiny_model(name))
    assert way.name == "oracle" and name in way.reason
    examples = number_responses(random_examples(0, 2))
    assert torch.isfinite(features(way.logps, tiny_model(name), examples)).all()


def test_an_encoder_is_read_by_the_oracle():
    model = tiny_encoder()
    way = feature_scorer_for(model)
    assert way.name == "oracle" and "encoder" in way.reason
    assert features(way.logps, model, random_examples(0, 2)).shape == (4, 64)
