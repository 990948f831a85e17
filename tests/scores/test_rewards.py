"""Rewards from trees are those of the model's own padded forward: values, loss, gradients."""

from itertools import combinations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from redpencil.data.tree import lay_trees
from redpencil.models.attention import enable_activation_checkpointing, install
from redpencil.models.layout import attention_path
from redpencil.models.lora import add_lora
from redpencil.objectives.reward import bradley_terry
from redpencil.scores.rewards import oracle_rewards, reward_scorer_for, tree_rewards
from redpencil.types import Comparison
from zoo import (
    ARCHITECTURES,
    GRADIENT_ROUNDING,
    STRANGERS,
    example,
    random_examples,
    tiny_config,
    tiny_encoder,
)

WITHOUT_A_CLASSIFIER = {"granite", "cohere"}
CLASSIFIERS = [name for name in ARCHITECTURES if name not in WITHOUT_A_CLASSIFIER]


def reward_model(name, **overrides):
    config = tiny_config(name, **overrides)
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def test_a_model_is_read_where_its_own_padding_token_says():
    """transformers reads at the last token that is not padding, which may be an end token."""
    model = reward_model("llama", pad_token_id=2)
    trees = [example([5, 6], [8, 9, 2], [8, 2, 2], [8, 9], [2]), example([2], [2], [7, 2])]
    batch = lay_trees(trees, feed_last=True)
    paths = [[*e.prompt_ids, *r.ids] for e in trees for r in e.responses]
    plain = torch.cat([model(input_ids=torch.tensor([p])).logits[:, 0] for p in paths])
    torch.testing.assert_close(oracle_rewards(model, batch), plain)
    install(model)
    torch.testing.assert_close(tree_rewards(model, batch), plain)
    assert_same(
        *(loss_and_gradients(model, s, pairs_of(trees)) for s in (tree_rewards, oracle_rewards))
    )
    model.config.pad_token_id = None  # then at the very last one
    assert (tree_rewards(model, batch) - plain).abs().max() > 1e-3


def pairs_of(trees):
    """The same trees, their first response better than their second."""
    pair = [Comparison(chosen=0, rejected=1)]
    laid = [
        example(e.prompt_ids.tolist(), *(r.ids.tolist() for r in e.responses), comparisons=pair)
        for e in trees
    ]
    return lay_trees(laid, feed_last=True)


def batch_of(responses, seed=0):
    """Trees of which one has responses that continue others, one a repeated response."""
    pairs = [Comparison(chosen=i, rejected=j) for i, j in combinations(range(responses), 2)]
    laid = [
        example(e.prompt_ids.tolist(), *(r.ids.tolist() for r in e.responses), comparisons=pairs)
        for e in random_examples(seed, responses, prompts=3)
    ]
    nested = example(
        [5, 6, 7],
        [8, 9, 10],
        [8, 9],
        [8],
        [8, 9, 10],
        comparisons=[Comparison(chosen=0, rejected=2)],
    )
    return lay_trees([*laid, nested], feed_last=True)


def loss_and_gradients(model, score, batch):
    model.zero_grad()
    rewards = score(model, batch)
    loss = bradley_terry(rewards, batch.pairs, centring=0.01).mean()
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return rewards.detach(), loss.item(), grads


def assert_same(ours, theirs, rtol=1e-5):
    torch.testing.assert_close(ours[0], theirs[0], rtol=rtol, atol=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=rtol)
    assert ours[2].keys() == theirs[2].keys()
    largest = max(g.abs().max() for g in theirs[2].values())
    assert largest > 0
    for name, grad in theirs[2].items():
        assert (ours[2][name] - grad).abs().max() <= GRADIENT_ROUNDING * largest, name


@pytest.mark.parametrize("responses", [2, 4])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_tree_is_oracle(name, responses):
    model = reward_model(name)
    assert install(model)
    batch = batch_of(responses)
    ours = loss_and_gradients(model, tree_rewards, batch)
    assert_same(ours, loss_and_gradients(model, oracle_rewards, batch))


@pytest.mark.parametrize("way", ["flex", "dense"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_tree_is_oracle_by_other_ways(name, way, flex_kernel):
    model = reward_model(name)
    assert install(model)
    batch = batch_of(3)
    with attention_path(way):
        ours = loss_and_gradients(model, tree_rewards, batch)
    assert_same(ours, loss_and_gradients(model, oracle_rewards, batch))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_with_adapters_the_head_is_trained_too(name):
    model = add_lora(reward_model(name), rank=2)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    install(model)
    batch = batch_of(2)
    ours = loss_and_gradients(model, tree_rewards, batch)
    heads = [n for n in ours[2] if "lora_" not in n]
    assert len(heads) == 1
    assert "score.modules_to_save" in heads[0]
    assert ours[2][heads[0]].abs().max() > 0
    assert_same(ours, loss_and_gradients(model, oracle_rewards, batch))


def test_with_activation_checkpointing():
    model = reward_model("llama")
    install(model)
    batch = batch_of(2)
    plain = loss_and_gradients(model, tree_rewards, batch)
    enable_activation_checkpointing(model)
    model.train()
    assert_same(loss_and_gradients(model, tree_rewards, batch), plain)


def test_a_position_that_is_off_by_one_is_caught():
    """The negative control: a reward read before the last token."""
    from dataclasses import replace

    model = reward_model("llama")
    install(model)
    batch = batch_of(2)
    wrong = replace(batch, last_token=batch.last_token - 1)
    assert not torch.allclose(tree_rewards(model, wrong), oracle_rewards(model, batch), atol=1e-3)


def test_who_takes_trees_and_who_says_why_not():
    assert reward_scorer_for(reward_model("llama")).name == "tree"
    for name in sorted(STRANGERS.keys() - {"mamba"}):
        scorer = reward_scorer_for(reward_model(name))
        assert (scorer.name, scorer.logps) == ("oracle", oracle_rewards)
    encoder = reward_scorer_for(tiny_encoder())
    assert encoder.name == "oracle"
    assert encoder.reason.startswith("bert is an encoder")


def test_an_encoder_sees_no_padding():
    model = tiny_encoder()
    batch = batch_of(3)
    together = oracle_rewards(model, batch)
    alone = []
    for one in batch.examples:
        for response in one.responses:
            ids = [*one.prompt_ids.tolist(), *response.ids.tolist()]
            alone.append(model(input_ids=torch.tensor([ids])).logits[0, 0])
    torch.testing.assert_close(together, torch.stack(alone))
