"""Tiny random models of many architectures, and trees to try them on (`from zoo import ...`)."""

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from redpencil.types import Comparison, Example, Origin, Response

VOCABULARY = 61

_COMMON = {
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
    "tie_word_embeddings": False,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_WINDOW = {"sliding_window": 4}

_CONFIGS: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2_sliding": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, **_WINDOW}),
    "qwen3": ("qwen3", {"head_dim": 12}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral_sliding": ("mistral", _WINDOW),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, **_WINDOW}),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], **_WINDOW},
    ),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3_sliding": ("phi3", _WINDOW),
    "olmo2": ("olmo2", {}),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "granite": ("granite", {"logits_scaling": 3.0, "attention_multiplier": 0.2}),
    "cohere": ("cohere", {"logit_scale": 0.3}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "mixtral": ("mixtral", {"num_local_experts": 4, **_EXPERTS, "sliding_window": None}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 4, **_EXPERTS, "head_dim": 12}),
    "smollm3": ("smollm3", {}),
}

ARCHITECTURES = list(_CONFIGS)
"""Architectures that take trees."""

STRANGERS = {
    "bloom": {},
    "falcon": {"alibi": False},
    "gptj": {"rotary_dim": 4},
    "mamba": {"state_size": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
}
"""Architectures that do not."""


GRADIENT_ROUNDING = 8 * 64 * torch.finfo(torch.float32).eps
"""How far two float32 gradients of one of these models may lie apart, relative to the largest: two
layers of attention and MLP, forward and backward, are eight products in a row, whose entries are
sums of up to 64 terms in whatever order a CPU's kernels take them. A mistake is 1e-3 or more."""


def tiny_model(
    name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: object
) -> PreTrainedModel:
    """A random model of about 30 k parameters in eval mode, its dropout as the config has it.

    Weights are larger than at a usual initialization, so that a wrong attention shows.
    """
    config = tiny_config(name, **overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.25)
    return model.to(dtype).eval()


def tiny_config(name: str, **overrides: object) -> PreTrainedConfig:
    kind, own = _CONFIGS[name] if name in _CONFIGS else (name, STRANGERS[name])
    return CONFIG_MAPPING[kind](**{**_COMMON, **own, **overrides})


def tiny_encoder(*, seed: int = 0) -> PreTrainedModel:
    """A random BERT with one label, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForSequenceClassification(BertConfig(**{**_COMMON, "num_labels": 1}))
    return model.eval()


def tiny_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Words `w3` ... `w60`, specials `<pad>`, `<s>`, `</s>`, and a chat template."""
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, VOCABULARY))]
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {{ eos_token }}{% endfor %}"
    return tokenizer


def example(
    prompt: Sequence[int], *responses: Sequence[int], comparisons: Sequence[Comparison] = ()
) -> Example:
    """An example whose responses are scored whole."""
    origin = Origin("memory", 1)
    return Example(
        prompt_ids=np.array(prompt, dtype=np.int32),
        responses=tuple(
            Response(
                ids=np.array(ids, dtype=np.int32),
                scored=np.ones(len(ids), dtype=bool),
                origin=origin,
            )
            for ids in responses
        ),
        comparisons=tuple(comparisons),
        prompt_key=str(list(prompt)),
    )


def random_examples(seed: int, responses: int, *, prompts: int = 2) -> list[Example]:
    """Prompts of 4 to 7 tokens with responses of 3 to 8, which often begin alike."""
    generator = np.random.default_rng(seed)

    def ids(low: int, high: int) -> list[int]:
        return generator.integers(3, VOCABULARY, generator.integers(low, high)).tolist()

    examples = []
    for _ in range(prompts):
        stems = [ids(1, 4), ids(1, 4)]
        examples.append(
            example(ids(4, 8), *(stems[k // 2 % 2] + ids(2, 5) for k in range(responses)))
        )
    return examples
