"""Sampling: the model's own numbers, whatever the model, and the same completions, whatever shares
a call."""

import json

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from redpencil.cli.main import main
from redpencil.errors import MemoryExceeded, ModelError, NonFiniteError
from redpencil.models.load import equip
from redpencil.rollout import sample as sampling
from redpencil.rollout.generate import Generation, generation
from redpencil.rollout.roll import check_sampler
from redpencil.rollout.sample import sample_with_logps
from redpencil.scores.oracle import oracle_path_logps
from zoo import ARCHITECTURES, VOCABULARY, tiny_model, tiny_tokenizer

PROMPTS = [np.array([3 + i, 4, 5]) for i in range(7)]

UNEVEN = [np.arange(3, 3 + n) for n in (2, 9, 5, 9, 2, 17)]
"""Prompts of unlike length, two of them twice."""

DRAWN = {"num": 3, "max_new_tokens": 8, "temperature": 1.0, "eos_ids": [2], "pad_id": 0, "seed": 4}

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ODD = {
    "llama4_text": (
        {"head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2, "floor_scale": 4,
         "attention_chunk_size": 16, "no_rope_layer_interval": 2},
        Generation("one length", True),
    ),
    "recurrent_gemma": (
        {"head_dim": 8, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 16,
         "block_types": ["recurrent", "attention"]},
        Generation("one length", True),
    ),
    "zamba2": (
        {"layers_block_type": ["linear_attention", "hybrid"], "use_mamba_kernels": False,
         "num_key_value_heads": 4, "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_ngroups": 1,
         "use_mem_rope": True, "adapter_rank": 4, "chunk_size": 8, "num_mem_blocks": 1},
        Generation("any", False),
    ),
    "nemotron_h": (
        {"layers_block_type": ["linear_attention", "full_attention"], "use_mamba_kernels": False,
         "head_dim": 8, "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8,
         "n_groups": 2, "chunk_size": 8},
        Generation("any", False),
    ),
}  # fmt: skip
"""Of which left padding, or the cache, gives other numbers than the text read at once."""


def odd(kind, **options):
    """A tiny random model with weights large enough to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**COMMON, **options}))
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.25)
            elif "A_log" not in name:
                parameter.data += 0.3 * torch.randn_like(parameter)
    equip(model)
    return model.eval()


def alone(model, prompt, ids):
    """(L,) log-probabilities of a completion by plain transformers, read at once."""
    row = torch.from_numpy(np.concatenate([prompt, ids])).long()
    with torch.no_grad():
        logps = model(input_ids=row[None], use_cache=False).logits[0, :-1].log_softmax(-1)
    return logps.gather(1, row[1:, None])[len(prompt) - 1 :, 0].numpy()


def after(model, ids):
    """(V,) log-probabilities of what follows a text, by plain transformers."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids).long()[None], use_cache=False).logits
    return logits[0, -1].log_softmax(-1).numpy()


def apart(model, prompts=UNEVEN, **options):
    """How far a sampled token's log-probability is from that of plain transformers."""
    drawn = sample_with_logps(model, prompts, **{**DRAWN, **options})
    return max(
        np.abs(one.logps - alone(model, prompt, one.ids)).max()
        for prompt, each in zip(prompts, drawn, strict=True)
        for one in each
    )


@pytest.mark.parametrize("kind", ODD)
def test_what_is_drawn_from_is_the_model(kind, capsys):
    options, way = ODD[kind]
    model = odd(kind, **options)
    assert apart(model) < 2e-4
    assert generation(model) == way
    said = capsys.readouterr().out
    assert said.count("sampling  ") == 1 and kind in said  # once, though it samples often
    assert check_sampler(model, UNEVEN, [2], oracle_path_logps, max_new_tokens=8) < 2e-4
    assert "sampling" not in capsys.readouterr().out
    model._redpencil_generation = Generation("any", True)  # negative control
    assert apart(model) > 1e-3
    with pytest.raises(ModelError, match="differ from the scorer's"):
        check_sampler(model, UNEVEN, [2], oracle_path_logps, max_new_tokens=16)


def test_a_model_that_looks_at_its_neighbours_writes_alone():
    model = tiny_model("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda _, __, out: out - 0.3 * out.mean(0))
    assert generation(model) == Generation("nothing", True)
    assert apart(model) < 2e-4
    model._redpencil_generation = Generation("one length", True)  # negative control
    assert apart(model) > 1e-2


@pytest.mark.parametrize("name", [*ARCHITECTURES, "bloom", "falcon", "gptj", "mamba", "gpt_oss"])
def test_ordinary_models_write_side_by_side(name, monkeypatch, capsys):
    calls, generate = [], sampling.generated

    def counted(model, prompts, *args, **options):
        calls.append((len(prompts), options["cached"]))
        return generate(model, prompts, *args, **options)

    monkeypatch.setattr(sampling, "generated", counted)
    model = tiny_model(name)
    assert apart(model) < 2e-4
    assert generation(model) == Generation("any", True)
    assert calls == [(len(UNEVEN) * 3, True)]
    assert not capsys.readouterr().out


LONG = {
    "longrope": ("phi3", {"original_max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4, "original_max_position_embeddings": 32}}),
    "dynamic": ("llama", {"max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}}),
}  # fmt: skip


@pytest.mark.parametrize("rope", LONG)
def test_frequencies_of_a_long_neighbour_are_not_taken(rope, monkeypatch):
    """Within the bound and beyond it a text's numbers are its own. One that crosses it is drawn
    from what the model says of the text so far, read again for every token."""
    kind, options = LONG[rope]
    model = odd(kind, sliding_window=None, **options)
    short, across, beyond = UNEVEN[:4], [np.arange(3, 32), np.arange(4, 33)], [np.arange(3, 45)]
    assert apart(model, short) < 2e-4
    if rope == "longrope":
        assert apart(model, [*short, *beyond]) < 2e-4
    prompts = [*short, *across, *beyond]
    for prompt, each in zip(prompts, sample_with_logps(model, prompts, **DRAWN), strict=True):
        for one in each:
            row = np.concatenate([prompt, one.ids])
            far = [
                abs(after(model, row[: len(prompt) + n])[token] - one.logps[n])
                for n, token in enumerate(one.ids)
            ]
            assert max(far) < 2e-4, (rope, len(prompt), far)
    monkeypatch.setattr(sampling, "frequency_key", lambda _: None)  # negative control
    assert apart(model, [*short, *beyond]) > 1e-2


@pytest.mark.parametrize("how", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
def test_what_is_drawn_does_not_depend_on_what_shares_a_call(how):
    model = tiny_model("llama")

    def drawn(prompts=UNEVEN, **options):
        found = sampling.sample(model, prompts, **{**DRAWN, **how, **options})
        return [[c.tolist() for c in each] for each in found]

    expected = drawn()
    for batch_size in (1, 2, 5):
        assert drawn(batch_size=batch_size) == expected
    assert drawn(UNEVEN[:3]) == expected[:3]
    assert drawn(num=2) == [each[:2] for each in expected]
    model._redpencil_generation = Generation("nothing", False)
    assert drawn() == expected
    assert drawn(seed=5) != expected
    assert expected[1] != expected[3]  # the same prompt, in another place
    assert len({str(c) for c in expected[0]}) > 1
    before = torch.random.get_rng_state()
    drawn()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_tokens_come_as_often_as_the_model_says():
    model = tiny_model("llama")
    prompt = np.array([5, 6, 7])
    drawn = sampling.sample(
        model, [prompt], num=4000, max_new_tokens=1, temperature=1.0, eos_ids=[2], pad_id=0,
        seed=0, batch_size=4000,
    )  # fmt: skip
    counts = np.bincount([c[0] for c in drawn[0]], minlength=VOCABULARY)
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(prompt)[None]).logits[0, -1].softmax(-1).numpy()
    deviation = np.sqrt(4000 * wanted * (1 - wanted)) + 1
    assert (np.abs(counts - 4000 * wanted) < 5 * deviation).all()


def test_what_has_no_probability_is_never_drawn():
    rows = [sampling._Row(0, np.array([3]), k) for k in range(500)]
    logits = torch.full((500, 6), -torch.inf)
    logits[:, [1, 4]] = torch.tensor([0.0, 1.0])
    draws = sampling._Draws(rows, 1, 1.0, 1.0, 0)
    draws._uniform[:4, 0] = torch.tensor([0.0, 1.0, 1 - 2.0**-53, 2.0**-60]).double()
    chosen = draws(torch.zeros(500, 1, dtype=torch.int64), logits).argmax(-1)
    assert set(chosen.tolist()) == {1, 4} and chosen[:4].tolist() == [1, 4, 4, 1]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("was_well", [True, False])
def test_numbers_that_are_not_finite_are_a_sentence(temperature, was_well):
    model = tiny_model("llama")
    if was_well:
        generation(model)
    model.lm_head.weight.data[:] = torch.nan
    with pytest.raises(NonFiniteError, match="nothing can be sampled"):
        sampling.sample(model, PROMPTS, **{**DRAWN, "temperature": temperature})


def test_a_model_that_cannot_write_is_a_sentence():
    """Generation fails, or is another model's: told before anything is drawn."""
    model = tiny_model("llama")
    model.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
    )
    model.register_forward_hook(
        lambda m, args, kwargs, out: out.__setitem__("logits", out.logits + out.logits.roll(1, -1))
        if "position_ids" in kwargs else None, with_kwargs=True,
    )  # fmt: skip
    with pytest.raises(ModelError, match="cannot write: what transformers generates differs"):
        sampling.sample(model, PROMPTS, **DRAWN)
    broken = tiny_model("llama")
    broken.prepare_inputs_for_generation = lambda *_, **__: {}["absent"]
    with pytest.raises(ModelError, match="llama cannot write: generation fails"):
        sampling.sample(broken, PROMPTS, **DRAWN)


def test_what_cannot_write_can_be_trained(tmp_path, monkeypatch, capsys):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"w{i}", "chosen": "w4 w5", "rejected": "w6"} for i in range(3, 9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def generation(_):
        raise ModelError("llama cannot write")

    monkeypatch.setattr(sampling, "generation", generation)
    asked = ["dpo", "--model", str(tmp_path / "model"), "--data", str(data), "--max-steps", "1"]
    assert main([*asked, "--out", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    assert "llama cannot write; with --sample-prompts 0" in said and "Traceback" not in said
    assert main([*asked, "--out", str(tmp_path / "b"), "--sample-prompts", "0"]) == 0


@pytest.mark.parametrize(("fits", "asked"), [(8, [7]), (3, [7, 3, 3, 1]), (1, [7, 3] + [1] * 7)])
def test_out_of_memory_halves_what_is_drawn_at_once(monkeypatch, fits, asked):
    seen, draw = [], sampling.generated

    def generate(model, prompts, *args, **options):
        seen.append(len(prompts))
        if len(prompts) > fits:
            raise torch.OutOfMemoryError("no more")
        return draw(model, prompts, *args, **options)

    monkeypatch.setattr(sampling, "generated", generate)
    options = {"num": 2, "max_new_tokens": 3, "temperature": 0, "eos_ids": [2], "pad_id": 0}
    found = sampling.sample(tiny_model("llama"), PROMPTS, seed=0, **options)
    assert seen == asked
    monkeypatch.setattr(sampling, "generated", draw)
    wanted = sampling.sample(tiny_model("llama"), PROMPTS, seed=0, **options)
    for ours, theirs in zip(found, wanted, strict=True):
        assert [o.tolist() for o in ours] == [t.tolist() for t in theirs]


def test_one_prompt_too_many_is_a_sentence(monkeypatch):
    def generate(*_, **__):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(sampling, "generated", generate)
    with pytest.raises(MemoryExceeded, match="one completion of up to 3 tokens"):
        sampling.sample(
            tiny_model("llama"), PROMPTS, num=2, max_new_tokens=3, temperature=1.0, eos_ids=[2],
            pad_id=0, seed=0,
        )  # fmt: skip
