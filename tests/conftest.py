"""Fixtures shared by all tests."""

import json
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func
from hypothesis import HealthCheck, settings
from torch._dynamo.backends.common import aot_autograd
from torch.nn.attention.flex_attention import flex_attention
from transformers import LlamaConfig, LlamaForCausalLM

from redpencil import console
from redpencil.models.layout import attention_path
from redpencil.world.pairs import label_pairs, prefixes, sft_rows
from redpencil.world.reward import true_reward
from redpencil.world.tokenizer import world_tokenizer

# Models of a few thousand parameters gain nothing from threads, and several processes of them on
# a busy machine wait for each other. Programs that tests start inherit it. Another number must
# pass, too: TEST_THREADS=4 make test.
THREADS = int(os.environ.get("TEST_THREADS", "1"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
torch.set_num_threads(THREADS)

# No example has a deadline: a busy machine is no failure. Every run draws the same examples, so
# nobody's machine meets a new one by chance; HYPOTHESIS_PROFILE=explore draws others each time.
anywhere = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("steady", derandomize=True, **anywhere)
settings.register_profile("explore", derandomize=False, **anywhere)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # `from zoo import tiny_model` in any test


@pytest.fixture(autouse=True)
def as_much_said_as_before():
    """A command that was given --quiet in one test leaves the next ones their screens."""
    verbosity = console._verbosity
    yield
    console.set_verbosity(verbosity)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real third-party data (REDPENCIL_DATA, default ../shared/data), or skip."""
    folder = Path(os.environ.get("REDPENCIL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set REDPENCIL_DATA")
    return folder


@pytest.fixture
def flex_kernel(monkeypatch):
    """FlexAttention on a CPU, forward and backward, traced and split as for a GPU and then run
    operation by operation. Returns how often its forward graph ran, a list of shapes.

    torch refuses the backward pass by device, because it has no fast CPU kernel for it."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    ran: list[torch.Size] = []

    def counted(graph, inputs):
        forward = graph.forward

        def run(*arguments):
            ran.append(arguments[0].shape)
            return forward(*arguments)

        return make_boxed_func(run)

    backend = aot_autograd(fw_compiler=counted, bw_compiler=lambda graph, _: make_boxed_func(graph))
    kernel = torch.compile(flex_attention, backend=backend, dynamic=False, fullgraph=True)
    monkeypatch.setattr("redpencil.models.flex.kernel", lambda: kernel)
    torch._dynamo.reset()
    yield ran
    torch._dynamo.reset()


@pytest.fixture
def by_flex(flex_kernel):
    """Trees are attended over by FlexAttention, whatever the device."""
    with attention_path("flex"):
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A random Llama of the review world, small enough to step in milliseconds."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = world_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """Forty prefixes with three reviews each, labelled by the true reward."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rng = random.Random(0)
    rows = []
    for number, prefix in enumerate(prefixes(40, 1)):
        texts = [row["completion"] for row in sft_rows(3, number)]
        rewards = [true_reward(prefix + text) for text in texts]
        rows.append(label_pairs(prefix, texts, rewards, rng, temperature=0))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
