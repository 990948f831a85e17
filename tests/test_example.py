"""The one-file example: short, independent, begins at ln 2, falls, and runs as a program."""

import ast
import importlib.util
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from redpencil.objectives import dpo_loss

PATH = Path(__file__).resolve().parent.parent / "examples" / "dpo_in_one_file.py"

PAIRS = [
    {
        "prompt": f"Once upon a time there was a {animal} who",
        "chosen": f" liked to play in the {place}.",
        "rejected": f" was sad and {verb} all day.",
    }
    for animal, place, verb in [
        ("cat", "park", "cried"),
        ("dog", "garden", "slept and slept"),
        ("bird", "big tree", "hid"),
        ("little girl named Lily", "house", "ran away from everyone"),
    ]
]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dpo_in_one_file", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Letters:
    """A tokenizer of lower-case bytes: BOS 1 before a text, EOS 2."""

    eos_token_id = 2

    def __call__(self, text: str, add_special_tokens: bool = True) -> object:
        ids = [3 + ord(c) % 60 for c in text]
        return type("Encoded", (), {"input_ids": [1, *ids] if add_special_tokens else ids})


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config)


def curve_of(example: ModuleType, **changed: object) -> list[float]:
    options = {"beta": 0.5, "learning_rate": 1e-3, "batch_size": 2, "steps": 12, **changed}
    return example.train(tiny_llama(), Letters(), PAIRS, **options)


def test_it_is_short_and_stands_alone() -> None:
    source = PATH.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 200
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"torch", "transformers"}


def test_begins_at_ln_2_and_falls(example: ModuleType) -> None:
    curve = curve_of(example, max_grad_norm=1.0)
    assert len(curve) == 12
    assert curve[0] == pytest.approx(math.log(2), abs=1e-6)
    assert sum(curve[-2:]) < 0.9 * sum(curve[:2])


def test_its_loss_is_redpencils(example: ModuleType) -> None:
    torch.manual_seed(0)
    pi, ref = torch.randn(2, 6) * 10
    w, l = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])  # noqa: E741
    ours, theirs = dpo_loss(pi, ref, w, l, 0.3), example.dpo_loss(pi, ref, w, l, 0.3)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_log_probabilities_equal_one_unpadded_forward_each(example: ModuleType) -> None:
    model, encoded = tiny_llama(), [example.encode(pair, Letters()) for pair in PAIRS]
    with torch.no_grad():
        together = example.pair_logps(model, encoded)
        for i, (prompt, *answers) in enumerate(encoded):
            for side, answer in enumerate(answers):
                logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
                alone = sum(logits[len(prompt) + t - 1, y] for t, y in enumerate(answer))
                torch.testing.assert_close(together[side * 4 + i], alone, rtol=1e-5, atol=1e-4)


def test_tokens(example: ModuleType) -> None:
    prompt, chosen, rejected = example.encode(
        {"prompt": "a", "chosen": "b", "rejected": "cc"}, Letters()
    )
    assert (prompt, chosen, rejected) == ([1, 40], [41, 2], [42, 42, 2])


def test_batches_come_in_order_and_go_round(example: ModuleType) -> None:
    """Batches of 3 from 4 pairs are 0 1 2, 3 0 1: the same as one list of six, taken once."""
    twice_around = [*PAIRS, *PAIRS]
    options = {"beta": 0.5, "learning_rate": 1e-3, "batch_size": 3, "steps": 2}
    a = example.train(tiny_llama(), Letters(), PAIRS, **options)
    b = example.train(tiny_llama(), Letters(), twice_around, **options)
    assert a == pytest.approx(b, abs=1e-6)
    assert a != pytest.approx(curve_of(example, batch_size=2, steps=2), abs=1e-6)


def test_warm_up_and_clipping_do_something(example: ModuleType) -> None:
    plain = curve_of(example, steps=3)
    assert curve_of(example, steps=3) == plain
    assert curve_of(example, steps=3, warmup_steps=10)[2] > plain[2]
    assert curve_of(example, steps=3, max_grad_norm=1e-6)[2] != plain[2]


def test_on_a_real_model(example: ModuleType, shared_data: Path) -> None:
    folder = shared_data / "stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    curve = example.train(
        model, tokenizer, PAIRS, beta=0.1, learning_rate=1e-4, batch_size=4, steps=8
    )
    assert curve[0] == pytest.approx(math.log(2), abs=1e-6)
    assert all(later < earlier for earlier, later in itertools.pairwise(curve))


def test_it_runs_as_a_program(shared_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(pair) for pair in PAIRS) + "\n", encoding="utf-8")
    out = tmp_path / "aligned"
    command = [sys.executable, str(PATH), "--model", str(shared_data / "stories260K")]
    command += ["--data", str(data), "--steps", "4", "--batch-size", "2", "--out", str(out)]
    command += ["--learning-rate", "1e-4", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(lines) == 4 and "loss 0.6931" in lines[0]
    assert AutoModelForCausalLM.from_pretrained(out).num_parameters() > 200_000
