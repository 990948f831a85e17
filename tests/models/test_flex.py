"""FlexAttention over trees: its blocks are the rule's, and its results flash's and the softmax's.

Without a GPU the kernel is traced and split as for one, then run operation by operation. In this
form it looks at the rule only, so the block structure is compared with torch's `create_block_mask`
on its own, and read by a compiled CPU kernel, which is forward only, in a slow test.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from redpencil.data.tree import lay_trees
from redpencil.models import flex
from redpencil.models.attention import (
    enable_activation_checkpointing,
    install,
)
from redpencil.models.flash_cpu import flash_tree_attention
from redpencil.models.flex import flex_tree_attention, padded_length, tree_block_mask
from redpencil.models.head import backbone
from redpencil.models.layout import TreeLayout, attention_path, laid_out
from redpencil.models.native.check import refusal
from redpencil.models.probe import takes_trees
from redpencil.models.tree_attention import choose_path, tree_attention
from redpencil.types import TreeBatch
from softmax import assert_equal_with_gradients, projections, visible, written_out
from zoo import example, random_examples, tiny_model

path = st.lists(st.integers(3, 4), max_size=7)
tree = st.tuples(path, st.lists(path, min_size=1, max_size=6)).filter(
    lambda t: any(len(t[0]) + len(r) > 1 for r in t[1])
)
trees = st.lists(tree, min_size=1, max_size=4)


def laid(shapes) -> TreeBatch:
    return lay_trees([example(prompt, *responses) for prompt, responses in shapes])


def as_sets(counts: torch.Tensor, columns: torch.Tensor) -> list[set[int]]:
    rows = zip(columns[0, 0].tolist(), counts[0, 0].tolist(), strict=True)
    return [set(row[:count]) for row, count in rows]


def listed(mask) -> dict[str, list[set[int]]]:
    """Partial and full blocks by row (forward) and by column (backward)."""
    return {
        "partial": as_sets(mask.kv_num_blocks, mask.kv_indices),
        "full": as_sets(mask.full_kv_num_blocks, mask.full_kv_indices),
        "partial, backward": as_sets(mask.q_num_blocks, mask.q_indices),
        "full, backward": as_sets(mask.full_q_num_blocks, mask.full_q_indices),
    }


def by_torch(mask):
    """The same rule cut into blocks by torch, by way of a matrix of all pairs."""
    length = mask.seq_lengths[0]
    return create_block_mask(
        mask.mask_mod, 1, 1, length, length, device="cpu", BLOCK_SIZE=mask.BLOCK_SIZE
    )


def test_lengths_are_rounded_up_to_two_sizes_an_octave():
    assert [padded_length(n) for n in (0, 1, 128, 129, 300, 385, 513, 700, 769)] == [
        128, 128, 128, 256, 384, 512, 768, 768, 1024,
    ]  # fmt: skip
    assert len({padded_length(n) for n in range(1, 65_537)}) == 18
    for n in range(1, 5000, 7):
        assert n <= padded_length(n) <= max(n + 127, 1.5 * n)
    for power in range(7, 18):
        assert padded_length(1 << power) == 1 << power


@settings(max_examples=150, deadline=None)
@given(trees)
def test_blocks_are_those_of_the_rule(shapes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex, "BLOCK", 4)
        batch = laid(shapes)
        mask = tree_block_mask(batch.subtree_end, batch.position_ids, None)
    assert mask.seq_lengths[0] >= len(batch.input_ids)
    assert listed(mask) == listed(by_torch(mask))


@settings(max_examples=150, deadline=None)
@given(trees, st.integers(1, 9))
def test_blocks_of_a_window_leave_nothing_out_and_call_nothing_full_that_is_not(shapes, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex, "BLOCK", 4)
        batch = laid(shapes)
        mask = tree_block_mask(batch.subtree_end, batch.position_ids, window)
    ours, exact = listed(mask), listed(by_torch(mask))
    for side in ("", ", backward"):
        assert ours["full" + side] == exact["full" + side]
        for mine, needed in zip(ours["partial" + side], exact["partial" + side], strict=True):
            assert mine >= needed


def test_blocks_at_their_real_size():
    ids = torch.randint(3, 60, (1400,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = laid([(ids[:300], [ids[300:500], ids[400:470], ids[500:900]]), (ids[900:1000], [[5]])])
    mask = tree_block_mask(batch.subtree_end, batch.position_ids, None)
    assert mask.BLOCK_SIZE == (128, 128)
    assert listed(mask) == listed(by_torch(mask))
    # The second response begins behind the first: 400 tokens on its path, of which it skips 199.
    assert 0 < int(mask.full_kv_num_blocks.sum()) < int(mask.kv_num_blocks.sum())
    windowed = tree_block_mask(batch.subtree_end, batch.position_ids, 200)
    blocks = [int(m.kv_num_blocks.sum() + m.full_kv_num_blocks.sum()) for m in (mask, windowed)]
    assert blocks[1] < blocks[0]


@pytest.mark.parametrize("window", [None, 3])
def test_the_rule_is_the_matrix_and_padding_sees_itself_only(window):
    batch = lay_trees(random_examples(1, 4))
    mask = tree_block_mask(batch.subtree_end, batch.position_ids, window)
    tokens, padded = len(batch.input_ids), mask.seq_lengths[0]
    whole = create_mask(mask.mask_mod, 1, 1, padded, padded, device="cpu")[0, 0]
    assert torch.equal(
        whole[:tokens, :tokens], visible(batch.subtree_end, batch.position_ids, window)
    )
    assert torch.equal(whole[tokens:], torch.eye(padded, dtype=torch.bool)[tokens:])
    assert not whole[:tokens, tokens:].any()


def test_blocks_need_no_matrix_of_pairs_and_never_wait_for_the_device():
    """131,072 tokens have 17 billion pairs. Fake tensors have no values, so that reading one, or
    a shape that depends on one, raises."""
    with FakeTensorMode():
        ends = torch.empty(131_072, dtype=torch.int64, device="cpu")
        mask = tree_block_mask(ends, ends, 4096)
    assert mask.kv_indices.shape == (1, 1, 1024, 1024)
    chain = torch.full((131_072,), 131_071)
    mask = tree_block_mask(chain, torch.arange(131_072), None)
    assert int(mask.full_kv_num_blocks.sum()) == 1024 * 1023 // 2
    assert int(mask.kv_num_blocks.sum()) == 1024


def by_flex_of(layout, inputs, *, window=None, softcap=None, scale=0.3):
    with attention_path("flex"):
        layout = TreeLayout.of(layout.batch)
    out, _ = tree_attention(
        layout, torch.nn.Module(), *inputs, scaling=scale, sliding_window=window, softcap=softcap
    )
    assert out.is_contiguous()
    return out.transpose(1, 2)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(shapes=trees)
def test_equals_flash_on_any_tree(by_flex, shapes):
    layout = TreeLayout.of(laid(shapes))
    inputs = projections(layout.tokens)
    flash = flash_tree_attention(*inputs, layout.runs, 0.3)
    assert_equal_with_gradients(by_flex_of(layout, inputs), flash, inputs)


@pytest.mark.parametrize(
    "heads",
    [
        {"key_heads": 4},
        {"key_heads": 1},
        {"heads": 6, "key_heads": 3},
        {"width": 12},
        {"value_width": 10},
    ],
    ids=str,
)
def test_heads(by_flex, heads):
    layout = TreeLayout.of(lay_trees(random_examples(4, 4)))
    mask = visible(layout.batch.subtree_end, layout.batch.position_ids, None)
    inputs = projections(layout.tokens, **heads)
    ours = by_flex_of(layout, inputs, scale=None)
    theirs = written_out(*inputs, mask, inputs[0].shape[-1] ** -0.5)
    assert_equal_with_gradients(ours, theirs, inputs)


@pytest.mark.parametrize("window", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_windows_and_caps(by_flex, window, softcap):
    layout = TreeLayout.of(lay_trees(random_examples(4, 4)))
    mask = visible(layout.batch.subtree_end, layout.batch.position_ids, window)
    inputs = projections(layout.tokens)
    ours = by_flex_of(layout, inputs, window=window, softcap=softcap)
    theirs = written_out(*inputs, mask, 0.3, softcap)
    assert_equal_with_gradients(ours, theirs, inputs)


def test_a_leak_of_one_token_in_the_rule_is_caught(by_flex, monkeypatch):
    """Negative control: token 3 of the first response stays visible to the second."""
    layout = TreeLayout.of(lay_trees([example([3, 4, 5], [6, 7, 8], [9, 10, 11])]))
    inputs = projections(layout.tokens)
    flash = flash_tree_attention(*inputs, layout.runs, 0.3)
    assert_equal_with_gradients(by_flex_of(layout, inputs), flash, inputs)
    real = flex.tree_rule

    def leaky(*arguments):
        rule = real(*arguments)
        return lambda b, h, q, k: rule(b, h, q, k) | ((k == 3) & (q == 5))

    monkeypatch.setattr(flex, "tree_rule", leaky)
    with pytest.raises(AssertionError):
        assert_equal_with_gradients(by_flex_of(layout, inputs), flash, inputs)


def test_the_blocks_are_built_once_for_all_layers(by_flex, monkeypatch):
    built = []
    real = flex.tree_block_mask

    def counted(subtree_end, position_ids, window):
        built.append(window)
        return real(subtree_end, position_ids, window)

    monkeypatch.setattr("redpencil.models.layout.tree_block_mask", counted)
    model = tiny_model("mistral_sliding", num_hidden_layers=4)
    install(model)
    hidden(model, lay_trees(random_examples(0, 2)))
    assert built == [4]


def test_one_kernel_for_all_trees_of_a_size(monkeypatch):
    """Other trees, other lengths within the size, other memory order: nothing is compiled anew."""
    compiled = []

    def backend(graph, example_inputs):
        compiled.append(graph)
        return graph.forward

    kernel = torch.compile(flex_attention, backend=backend, dynamic=False, fullgraph=True)
    monkeypatch.setattr(flex, "kernel", lambda: kernel)
    torch._dynamo.reset()
    for seed in range(6):
        layout = TreeLayout.of(lay_trees(random_examples(seed, 1 + seed)))
        inputs = [t.detach() for t in projections(layout.tokens, dtype=torch.float32)]
        if seed % 2:
            inputs = [t.contiguous() for t in inputs]
        with torch.no_grad():
            out = flex_tree_attention(*inputs, layout.block_mask(None), 0.3, None)
        flash = flash_tree_attention(*inputs, layout.runs, 0.3)
        torch.testing.assert_close(out, flash, rtol=1e-5, atol=1e-5)
    assert len(compiled) == 1
    for tokens in range(150, 800, 50):
        layout = TreeLayout.of(lay_trees([example(range(tokens), [5, 6, 7])]))
        inputs = [t.detach() for t in projections(layout.tokens, width=2, value_width=2)]
        with torch.no_grad():
            flex_tree_attention(*inputs, layout.block_mask(None), 0.3, None)
    assert len(compiled) == 1 + len({padded_length(n + 2) for n in range(150, 800, 50)}) == 5
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_kernel_reads_the_blocks(monkeypatch):
    """torch's CPU kernel skips what the blocks leave out and does not look at the rule in full
    ones, as the GPU's does; it has no backward pass."""
    kernel = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    monkeypatch.setattr(flex, "kernel", lambda: kernel)
    torch._dynamo.reset()
    ids = torch.randint(3, 60, (1400,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = laid([(ids[:300], [ids[300:500], ids[400:470], ids[500:900]]), (ids[900:1000], [[5]])])
    layout = TreeLayout.of(batch)
    inputs = [t.detach() for t in projections(layout.tokens, width=16, value_width=16)]
    inputs = [t.float() for t in inputs]
    for window, softcap in ((None, None), (400, None), (None, 2.0)):
        with torch.no_grad():
            blocks = layout.block_mask(window)
            out = flex_tree_attention(*inputs, blocks, 0.3, softcap)
            mask = visible(batch.subtree_end, batch.position_ids, window)
            exact = written_out(*inputs, mask, 0.3, softcap)
            torch.testing.assert_close(out, exact, rtol=1e-4, atol=1e-5)
            assert int(blocks.full_kv_num_blocks.sum()) > 0
            wrong = copy.copy(blocks)
            wrong.full_kv_num_blocks = torch.zeros_like(blocks.full_kv_num_blocks)
            out = flex_tree_attention(*inputs, wrong, 0.3, softcap)
            assert not torch.allclose(out, exact, rtol=1e-4, atol=1e-5)


def hidden(model, batch: TreeBatch) -> torch.Tensor:
    with laid_out(batch):
        output = backbone(model)(
            input_ids=batch.input_ids[None], position_ids=batch.position_ids[None], use_cache=False
        )
    return output.last_hidden_state[0]


@pytest.mark.parametrize("name", ["llama", "mistral_sliding", "gemma2"])
def test_recomputation_takes_the_way_of_its_forward(flex_kernel, name):
    """By the compiled kernel, too: whole scores in every recomputed layer would undo the saving."""
    batch = lay_trees(random_examples(5, 3))
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(name)
        install(model)
        model.train()
        if checkpointing:
            enable_activation_checkpointing(model)
        flex_kernel.clear()
        with attention_path("flex"):
            loss = hidden(model, batch).square().sum()
        assert len(flex_kernel) == 2
        loss.backward()
        assert len(flex_kernel) == (4 if checkpointing else 2)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient)


def test_mixed_dtypes_become_one_under_autocast(by_flex):
    """As on a GPU: float32 weights and residual stream, bfloat16 products."""
    layout = TreeLayout.of(lay_trees(random_examples(4, 4)))
    query, key, value = projections(layout.tokens, dtype=torch.float32)
    blocks = layout.block_mask(None)
    exact = flex_tree_attention(query, key, value, blocks, 0.3, None)
    assert exact.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = flex_tree_attention(query, key, value.bfloat16(), blocks, 0.3, None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (query, key, value))


def heads_on(device, width=64, value_width=None, dtype=torch.bfloat16):
    value_width = width if value_width is None else value_width
    return [
        SimpleNamespace(device=torch.device(device), shape=(1, 4, 9, w), dtype=dtype)
        for w in (width, value_width)
    ]


ON_A_CPU = (
    ("compiled", "redpencil's kernel, compiled for this CPU")
    if refusal() is None
    else ("flash", f"flash attention by runs, as {refusal()}")
)


@pytest.fixture
def a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(flex.importlib.util, "find_spec", lambda name: object())
    flex._no_compiler.cache_clear()
    yield monkeypatch
    flex._no_compiler.cache_clear()


def test_who_computes_what(a_gpu):
    for widths in ((64, 64), (64, 32)):
        assert choose_path(*heads_on("cpu", *widths)) == ON_A_CPU
    in_float64 = choose_path(*heads_on("cpu", dtype=torch.float64))
    assert in_float64 == ("flash", "flash attention by runs, as the model is in float64")
    for widths in ((64, 64), (128, 128), (96, 96), (192, 128), (16, 16)):
        assert choose_path(*heads_on("cuda", *widths)) == ("flex", "FlexAttention over blocks")
    dense = {
        "as values are wider than keys": heads_on("cpu", 32, 64),
        "as mps has no other kernel with a backward pass": heads_on("mps"),
        "as FlexAttention needs heads of 16 or more": heads_on("cuda", 12),
        "as FlexAttention computes in float32 at most": heads_on("cuda", dtype=torch.float64),
    }
    for why, heads in dense.items():
        assert choose_path(*heads) == ("dense", f"masked calls by runs, {why}")


@pytest.mark.parametrize(
    ("patch", "why"),
    [
        (("get_device_capability", lambda device: (6, 1)), "a GPU of compute capability 7.0"),
        (("find_spec", lambda name: None), "Triton, which is not installed"),
    ],
)
def test_a_gpu_that_cannot(a_gpu, patch, why):
    name, value = patch
    a_gpu.setattr(torch.cuda if name.startswith("get") else flex.importlib.util, name, value)
    path, words = choose_path(*heads_on("cuda"))
    assert path == "dense" and why in words


def test_the_way_is_said_with_the_reason(a_gpu):
    model = tiny_model("llama")
    takes, reason = takes_trees(model)
    assert takes and reason.endswith(f"on a probe; attention: {ON_A_CPU[1]}"), reason
    a_gpu.setattr(
        "redpencil.models.tree_attention.choose_path",
        lambda query, value: choose_path(*heads_on("cuda", query.shape[-1])),
    )
    takes, reason = takes_trees(model)
    assert takes and reason.endswith(
        "on a probe; attention: masked calls by runs, as FlexAttention needs heads of 16 or more"
    ), reason
