"""A model over trees is the model over padded sequences: hidden states and every gradient."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redpencil.data.tree import lay_trees
from redpencil.errors import ModelError
from redpencil.models import attention
from redpencil.models.attention import (
    enable_activation_checkpointing,
    install,
)
from redpencil.models.head import backbone
from redpencil.models.layout import TreeLayout, laid_out
from redpencil.models.load import disable_dropout
from redpencil.models.lora import add_lora
from redpencil.models.probe import takes_trees
from redpencil.types import TreeBatch
from zoo import ARCHITECTURES, STRANGERS, VOCABULARY, example, random_examples, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")


def hidden_on_tree(model, batch: TreeBatch) -> torch.Tensor:
    """(N, D)"""
    with laid_out(batch):
        output = backbone(model)(
            input_ids=batch.input_ids[None], position_ids=batch.position_ids[None], use_cache=False
        )
    return output.last_hidden_state[0]


def paths_of(batch: TreeBatch) -> list[torch.Tensor]:
    """Flat indices of the path to every leaf, by the rule alone."""
    n = len(batch.input_ids)
    index = torch.arange(n)
    sees = (index <= index[:, None]) & (index[:, None] <= batch.subtree_end[None, :])
    leaves = [q for q in range(n) if not sees[q + 1 :, q].any()]
    return [sees[q].nonzero().flatten() for q in leaves]


def hidden_padded(model, batch: TreeBatch) -> torch.Tensor:
    """(N, D): each flat token's hidden state from a padded forward of the paths."""
    paths = paths_of(batch)
    ids = torch.nn.utils.rnn.pad_sequence([batch.input_ids[p] for p in paths], batch_first=True)
    lengths = torch.tensor([len(p) for p in paths])
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    hidden = backbone(model)(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    hidden = hidden.last_hidden_state
    rows = [None] * len(batch.input_ids)
    for path, row in zip(paths, hidden, strict=True):
        for depth, token in enumerate(path.tolist()):
            rows[token] = row[depth]
    return torch.stack(rows)


def gradients(model, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every parameter, for a fixed random projection of the hidden states."""
    model.zero_grad(set_to_none=True)
    weights = torch.randn(
        hidden.shape, generator=torch.Generator().manual_seed(7), dtype=hidden.dtype
    )
    (hidden * weights).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def relative(one: torch.Tensor, two: torch.Tensor) -> float:
    """Largest difference against the larger tensor's largest entry."""
    scale = max(one.abs().max().item(), two.abs().max().item(), 1e-12)
    return (one - two).abs().max().item() / scale


def worst_gradient(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Largest difference against the largest entry of all gradients: some, as of a key's bias,
    are exactly zero in mathematics and rounding in both."""
    assert one.keys() == two.keys()
    scale = max(g.abs().max().item() for g in two.values())
    return max((one[n] - two[n]).abs().max().item() for n in two) / scale


def assert_same(model, batch: TreeBatch, tolerance: float = 1e-5) -> None:
    tree = hidden_on_tree(model, batch)
    padded = hidden_padded(model, batch)
    assert relative(tree, padded) < tolerance
    assert worst_gradient(gradients(model, tree), gradients(model, padded)) < tolerance


@pytest.mark.parametrize("responses", [1, 2, 4])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tree_equals_padded(name, responses):
    model = tiny_model(name)
    assert install(model)
    assert_same(model, lay_trees(random_examples(responses, responses)))


path = st.lists(st.integers(3, 5), max_size=6)
tree = st.tuples(path, st.lists(path, min_size=1, max_size=5)).filter(
    lambda t: any(len(t[0]) + len(r) > 1 for r in t[1])
)


@settings(max_examples=25, deadline=None)
@given(st.lists(tree, min_size=1, max_size=3), st.sampled_from(["qwen3", "mistral_sliding"]))
def test_any_shape_of_tree(shapes, name):
    batch = lay_trees([example(prompt, *responses) for prompt, responses in shapes])
    model = MODELS.setdefault(name, tiny_model(name))
    install(model)
    assert_same(model, batch)


MODELS: dict[str, torch.nn.Module] = {}


@pytest.mark.parametrize("name", ["llama", "mistral_sliding", "gemma2"])
def test_a_leak_of_one_token_between_siblings_is_caught(name, monkeypatch):
    """Negative control: the first sibling's first token stays visible to the second sibling."""
    batch = lay_trees([example([3, 4, 5], [6, 7, 8], [9, 10, 11])])
    model = tiny_model(name)
    install(model)
    assert batch.segments[1].start == 3 and batch.segments[2].start == 5
    real = TreeLayout.of

    def leaky(batch, read=None):
        layout = real(batch, read)
        layout.runs = (layout.runs[0], type(layout.runs[0])(5, 7, ((0, 4),)))
        layout.batch.subtree_end[3] = 6
        return layout

    monkeypatch.setattr(TreeLayout, "of", leaky)
    leaked = hidden_on_tree(model, batch)
    monkeypatch.undo()
    batch = lay_trees([example([3, 4, 5], [6, 7, 8], [9, 10, 11])])
    padded = hidden_padded(model, batch)
    assert relative(leaked[:5], padded[:5]) < 1e-5
    assert relative(leaked[5:], padded[5:]) > 1e-3
    assert worst_gradient(gradients(model, leaked), gradients(model, padded)) > 1e-3


@pytest.mark.parametrize("name", ["llama", "mistral_sliding", "gemma2", "gemma3", "opt"])
def test_outside_a_layout_nothing_changes(name):
    model = tiny_model(name)
    original = copy.deepcopy(model)
    install(model)
    ids = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        ours = model(input_ids=ids, attention_mask=mask).logits
        theirs = original(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(ours[1:], theirs[1:]) and torch.equal(ours[0, 4:], theirs[0, 4:])
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), original.generate(ids, **options))


def test_a_saved_config_does_not_carry_the_name(tmp_path):
    for name in ("llama", "gemma2"):
        model = tiny_model(name)
        install(model)
        model.save_pretrained(tmp_path / name)
        assert "redpencil" not in (tmp_path / name / "config.json").read_text()


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "stablelm", "gemma2", "mixtral"])
def test_activation_checkpointing_changes_no_gradient(name, lora):
    batch = lay_trees(random_examples(5, 3))
    models = [tiny_model(name) for _ in range(2)]
    for model in models:
        install(model)
        disable_dropout(model)
        model.train()
    if lora:
        models = [with_random_adapters(m) for m in models]
    enable_activation_checkpointing(models[1])
    results = []
    for model in models:
        hidden = hidden_on_tree(model, batch)
        results.append((hidden, gradients(model, hidden)))
    assert relative(results[0][0], results[1][0]) == 0
    assert worst_gradient(results[0][1], results[1][1]) < 1e-6


def with_random_adapters(model):
    wrapped = add_lora(model, rank=3)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return wrapped


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen3_moe"])
def test_tree_equals_padded_under_adapters(name):
    model = tiny_model(name)
    install(model)
    disable_dropout(model)
    wrapped = with_random_adapters(model)
    assert_same(wrapped, lay_trees(random_examples(6, 3)))
    assert takes_trees(wrapped)[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_takes_trees(name):
    model = tiny_model(name)
    model.train()
    answer, reason = takes_trees(model)
    assert answer, reason
    assert model.training


def test_strangers_are_named_with_a_reason():
    reasons = {}
    for name in STRANGERS:
        answer, reasons[name] = takes_trees(tiny_model(name))
        assert not answer
    for name in ("bloom", "falcon", "gptj", "mamba"):
        assert reasons[name] == f"{name} does not call the attention interface"
    assert "sinks" in reasons["gpt_oss"]


def test_a_wrong_tree_is_measured(monkeypatch):
    """A leak makes the probe differ, so the answer is no."""
    monkeypatch.setattr(
        attention, "tree_attention", lambda layout, m, q, k, v, **_: leak(layout, q, k, v)
    )

    def leak(layout, q, k, v):
        layout.calls += 1
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        )
        return out.transpose(1, 2), None

    answer, reason = takes_trees(tiny_model("llama"))
    assert not answer and "differ by" in reason


def test_a_window_that_only_the_mask_knows_is_found(monkeypatch):
    real = attention.tree_attention

    def without_window(layout, *args, sliding_window=None, **kwargs):
        return real(layout, *args, **kwargs)

    monkeypatch.setattr(attention, "tree_attention", without_window)
    answer, reason = takes_trees(tiny_model("mistral", sliding_window=64))
    assert not answer and "only its mask knows" in reason


def test_attention_dropout_is_refused_in_training():
    model = tiny_model("gpt2")
    install(model)
    model.train()
    batch = lay_trees(random_examples(1, 2))
    with pytest.raises(ModelError, match="attention dropout"):
        hidden_on_tree(model, batch)
    assert disable_dropout(model) > 0
    assert disable_dropout(model) == 0
    hidden_on_tree(model, batch)


def test_bfloat16_stays_within_its_rounding():
    model = tiny_model("llama", dtype=torch.bfloat16)
    install(model)
    batch = lay_trees(random_examples(2, 3))
    exact = hidden_on_tree(copy.deepcopy(model).float(), batch)
    assert relative(hidden_on_tree(model, batch).float(), exact) < 0.05


def test_under_autocast_as_without():
    model = tiny_model("llama")
    install(model)
    batch = lay_trees(random_examples(2, 3))
    exact = hidden_on_tree(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = hidden_on_tree(model, batch)
    assert relative(hidden.float(), exact) < 0.05
    hidden.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_layout_is_left_after_an_error():
    model = tiny_model("llama")
    install(model)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        laid_out(lay_trees(random_examples(1, 1))),
    ):
        raise RuntimeError("on purpose")
    model(input_ids=torch.tensor([[3, 4, 5]]))
