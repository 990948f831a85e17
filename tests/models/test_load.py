"""Every wrong model is one sentence; a right one comes quietly and ready for trees."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import Gemma3nConfig

import redpencil as rp
from redpencil.cli.main import main
from redpencil.errors import ModelError
from redpencil.models import locate as locating
from redpencil.models import quiet as quieting
from redpencil.models.check import check_model
from redpencil.models.export import save_adapter, save_model
from redpencil.models.load import disable_dropout, load_model, parameter_count, pick_device
from redpencil.models.lora import add_lora
from redpencil.models.probe import takes_trees
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.use.completing import complete
from zoo import tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
IDS = torch.tensor([[3, 9, 4, 30, 5]])


def load(name, dtype=torch.float32):
    return load_model(str(name), dtype=dtype, device=CPU)


@pytest.fixture
def folder(tmp_path):
    save_model(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def unreachable(monkeypatch):
    """The Hub cannot be reached and nothing is in its cache."""

    def fail(*args, **kwargs):
        raise ConnectionError("no way")

    monkeypatch.setattr(locating.HfApi, "model_info", fail)
    monkeypatch.setattr(locating, "try_to_load_from_cache", lambda *_: None)


def test_a_folder_gives_the_same_model(folder, capfd):
    model = load(folder)
    with torch.no_grad():
        same = tiny_model("llama")
        torch.testing.assert_close(model(input_ids=IDS).logits, same(input_ids=IDS).logits)
    for name, weight in same.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert not model.training and takes_trees(model)[0]
    assert parameter_count(model) == sum(p.numel() for p in tiny_model("llama").parameters())
    assert capfd.readouterr() == ("", "")


def test_dtype_is_as_asked(folder):
    assert load(folder, torch.bfloat16).dtype == torch.bfloat16


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def no_config(folder):
    (folder / "config.json").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def broken_weights(folder):
    (folder / "model.safetensors").write_bytes(b"garbage" * 10)


def cut_weights(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


WRONG = {
    "not a model folder: there is no config.json": no_config,
    "config.json is not valid JSON": lambda f: (f / "config.json").write_text("{bad"),
    "holds list, not a JSON object": lambda f: (f / "config.json").write_text("[]"),
    "architecture 'lama', which transformers": lambda f: edit_config(f, model_type="lama"),
    "architecture None, which transformers": lambda f: (f / "config.json").write_text("{}"),
    "'t5' is an encoder-decoder": lambda f: edit_config(f, model_type="t5"),
    "'bert' is one that does not predict the next": lambda f: edit_config(f, model_type="bert"),
    "only with --trust-remote-code": lambda f: edit_config(
        f, model_type="own", auto_map={"A": "b"}
    ),
    "holds no weights": no_weights,
    "only as a pickle": pickled_weights,
    "cannot be read": broken_weights,
    "the weights of": cut_weights,
    "shapes in the file are not those": lambda f: edit_config(f, hidden_size=16),
    "are incomplete: 9 tensors are missing": lambda f: edit_config(f, num_hidden_layers=3),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_folder_is_one_sentence(folder, message, capfd):
    WRONG[message](folder)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_and_a_missing_folder(folder):
    with pytest.raises(ModelError, match="is a file; a model is a folder"):
        load(folder / "config.json")
    with pytest.raises(ModelError, match=r'no model folder .*modle; did you mean "model"\?'):
        load(folder.parent / "modle")


@pytest.mark.usefixtures("unreachable")
def test_a_name_that_is_nowhere(tmp_path, monkeypatch, folder):
    with pytest.raises(ModelError, match="neither a folder here nor reachable on the Hub"):
        load("someone/something")
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ModelError, match='did you mean "model"'):
        load("modl")
    for name in ("../elsewhere", "a/b/c", "/nowhere/at/all"):
        with pytest.raises(ModelError, match="there is no model folder"):
            load(name)
    with pytest.raises(ModelError, match="neither a folder"):
        load_tokenizer("someone/something")


def test_an_unreachable_hub_is_no_matter_for_a_cached_model(folder, unreachable, monkeypatch):
    cached = str(folder / "config.json")
    monkeypatch.setattr(locating, "try_to_load_from_cache", lambda *_: cached)
    assert load("someone/something").config.model_type == "llama"


def test_an_adapter_is_merged_into_its_base(folder, tmp_path):
    model = add_lora(load(folder), rank=2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    save_adapter(model, tiny_tokenizer(), tmp_path / "adapter")
    loaded = load(tmp_path / "adapter")
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        torch.testing.assert_close(loaded(input_ids=IDS).logits, expected)
    assert takes_trees(loaded)[0]
    assert context_length(str(tmp_path / "adapter")) == 128
    assert load_tokenizer(str(tmp_path / "adapter")).eos_token_id == 2
    folder.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="an adapter whose base cannot be loaded: there is no"):
        load(tmp_path / "adapter")


def test_dropout_is_counted_and_configs_keep_theirs():
    model = tiny_model("gpt2")
    assert disable_dropout(model) == 1 + 3 * 2
    assert disable_dropout(model) == 0
    assert model.config.attn_pdrop == 0.1
    opt = tiny_model("opt", dropout=0.2, layerdrop=0.1).train()
    assert disable_dropout(opt) > 0
    assert torch.equal(opt(input_ids=IDS).logits, opt(input_ids=IDS).logits)
    assert disable_dropout(tiny_model("llama")) == 0


def test_the_device_exists():
    torch.zeros(1, device=pick_device())


QUANTIZED = {
    "(bitsandbytes, 4 bits)": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "(gptq, 4 bits)": {"quant_method": "gptq", "bits": 4},
    "(awq, 4 bits)": {"quant_method": "awq", "bits": 4},
    "(compressed-tensors)": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "(of-tomorrow)": {"quant_method": "of-tomorrow"},
}


@pytest.mark.parametrize("named", QUANTIZED)
def test_quantised_weights_are_refused_by_every_command_before_data_are_read(
    folder, named, tmp_path, capsys
):
    edit_config(folder, quantization_config=QUANTIZED[named])
    (tmp_path / "damaged.jsonl").write_text("{")  # which would be said where it is read
    data = ("--data", tmp_path / "damaged.jsonl")
    out = ("--out", tmp_path / "out")
    for command in (
        ("dpo", "--model", folder, *data, *out),
        ("dpo", "--model", folder, *data, *out, "--lora-rank", "2"),
        ("reward", "--model", folder, *data, *out),
        ("rl", "--model", folder, *data, *out, "--reward", "answer"),
        ("plan", "--model", folder, *data),
        ("generate", folder, *data),
        ("eval", folder, *data),
        ("judge", folder, folder, *data, *out, "--by", "answer"),
        ("chat", folder),
    ):
        assert main([str(part) for part in command]) == 2, command
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"{folder} is quantised {named}" in said, (command, said)
    assert not (tmp_path / "out").exists()


WRONG_VALUES = [None, "x", -1, 0, 1.5, [], ["a"], [None], {}, {"a": 1}, "gone"]
KEYS = {
    "config.json": [
        "model_type", "architectures", "num_hidden_layers", "num_attention_heads", "hidden_act",
        "rope_parameters", "vocab_size", "rms_norm_eps", "quantization_config", "text_config",
    ],
    "generation_config.json": ["eos_token_id", "pad_token_id", "temperature"],
    "tokenizer_config.json": ["model_max_length", "tokenizer_class", "eos_token"],
}  # fmt: skip


@pytest.mark.parametrize(("file", "key"), [(f, k) for f, keys in KEYS.items() for k in keys])
def test_whatever_a_config_holds_is_used_or_one_sentence(folder, file, key):
    path = folder / file
    whole, said = json.loads(path.read_text()), []
    for value in WRONG_VALUES:
        changed = {**whole, key: value}
        path.write_text(json.dumps({k: v for k, v in changed.items() if v != "gone"}))
        try:
            check_model(str(folder))
            loaded = rp.load(str(folder))
            complete(
                loaded,
                [np.array([3, 9])],
                num=1,
                temperature=1.0,
                max_new_tokens=2,
                seed=0,
                chat_template="none",
            )
        except ModelError as error:
            said.append(str(error))
    assert not [sentence for sentence in said if "\n" in sentence]


def test_errors_of_our_own_and_of_memory_are_not_the_folders_fault(folder, monkeypatch):
    def failing(error):
        def forward(*args, **kwargs):
            raise error

        return forward

    class_of = type(tiny_model("llama"))
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError()):
        with monkeypatch.context() as patched:
            patched.setattr(class_of, "forward", failing(error))
            with pytest.raises(type(error)):
                load(folder)
    ours = "def fail():\n    raise KeyError('ours')\n"
    for file, expected in ((quieting.__file__, KeyError), ("/elsewhere/library.py", ModelError)):
        room: dict = {}
        exec(compile(ours, file, "exec"), room)
        with pytest.raises(expected), quieting.in_one_sentence("the folder fails"):
            room["fail"]()


CODE = """
{top}
from transformers import LlamaConfig, LlamaForCausalLM
from importlib import import_module

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
    def __init__(self, config):
        {init}
        super().__init__(config)
    def forward(self, *args, **kwargs):
        {forward}
        return super().forward(*args, **kwargs)
"""
WANTING = {
    "top": "import absent_package",
    "init": "import_module('absent_package.kernels')",
    "forward": "import_module('absent_package')",
}


@pytest.mark.parametrize("where", [*WANTING, None])
def test_a_package_that_a_model_needs_is_named(where, folder, capsys, tmp_path):
    """Imported at the top of a model's own code, when it is made, or only when it computes."""
    lines = dict.fromkeys(WANTING, "") | dict.fromkeys(("init", "forward"), "pass")
    if where is not None:
        lines[where] = WANTING[where]
    (folder / "own.py").write_text(CODE.format(**lines))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own_llama"}))
    if where is None:  # negative control: nothing else is wrong with the folder
        assert load_model(str(folder), dtype=torch.float32, device=CPU, trust_remote_code=True)
        return
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "w3", "chosen": "w4", "rejected": "w5"}\n')
    out = tmp_path / "out"
    asked = ["--model", str(folder), "--data", str(data), "--out", str(out), "--trust-remote-code"]
    assert main(["dpo", *asked]) == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and "absent_package" in said and str(folder) in said
    assert not any("Traceback" in line for line in before)
    assert not out.exists()


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_a_package_that_transformers_needs_is_named(tmp_path):
    Gemma3nConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no model can be made: .*timm"):
        check_model(str(tmp_path))
