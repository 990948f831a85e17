"""What is compared: each case is a model folder and a file of preference pairs in a fixed order.

Both sides read the same two. Texts are chosen so that prompt, response and EOS fit the maximum
length, so truncation never comes into it. The order of the pairs is random once and then fixed.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

MAX_LENGTH = 512
TOKENIZER_SIZE = 8192
ASSISTANT = "\n\nAssistant:"
Pair = dict[str, str]
"""prompt, chosen, rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """prompts: how many a step takes; responses: of each (all of their pairs are compared).

    source: "hh" for real pairs, "words" for random ones of `prompt_tokens` and `response_tokens`
    (EOS included), each prompt after the same `system_tokens`. vocabulary: rows of the embedding;
    ids beyond the tokenizer's never occur.
    """

    name: str
    what: str
    source: Literal["hh", "words"] = "hh"
    prompts: int = 8
    responses: int = 2
    prompt_tokens: int = 0
    response_tokens: int = 0
    system_tokens: int = 0
    vocabulary: int = TOKENIZER_SIZE
    lora_rank: int = 0

    @property
    def pairs(self) -> int:
        """Pairs in a step."""
        return self.prompts * self.responses * (self.responses - 1) // 2


CASES = {
    case.name: case
    for case in (
        Case(name="hh", what="HH pairs as they are, vocabulary 8 k"),
        Case(name="hh_64k", what="HH, vocabulary 64 k", vocabulary=65_536),
        Case(name="hh_152k", what="HH, vocabulary 152 k", vocabulary=151_936),
        Case(name="hh_lora", what="HH, LoRA r = 16", lora_rank=16),
        Case(
            name="long_prompt", what="prompt 400, responses 60 tokens", source="words",
            prompt_tokens=400, response_tokens=60,
        ),
        Case(
            name="short_prompt", what="prompt 40, responses 200 tokens", source="words",
            prompt_tokens=40, response_tokens=200,
        ),
        Case(
            name="system", what="system prompt 150, prompts 50, responses 60", source="words",
            system_tokens=150, prompt_tokens=50, response_tokens=60,
        ),
        Case(
            name="k4", what="prompt 200, four responses of 60 tokens: six pairs", source="words",
            prompts=2, responses=4, prompt_tokens=200, response_tokens=60,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3-style decoder; heads are 64 wide, three of them share a key and value head."""

    hidden: int = 384
    layers: int = 6
    intermediate: int = 1536
    heads: int = 6


def build(
    case: Case, steps: int, folder: Path, data: Path | None, shape: Shape | None = None
) -> Path:
    """Write model, tokenizer and pairs for `steps` steps under `folder`; return the job file.

    data: where the real pairs lie. shape: of the decoder; the default has 13 million parameters
    beside its embeddings. Raises FileNotFoundError without data, ValueError if it has too little.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = steps * case.prompts
    if case.source == "hh":
        assert data is not None, "a case of real pairs needs the data folder"
        available = list(hh_pairs(data))
        tokenizer = text_tokenizer(available)
        pairs = fitting(shuffled(available), tokenizer)[:wanted]
        if len(pairs) < wanted:
            raise ValueError(f"{len(pairs)} usable HH pairs, {wanted} are needed: fewer --rounds")
    else:
        tokenizer = word_tokenizer()
        pairs = word_pairs(case, wanted)
    save_model(shape or Shape(), case.vocabulary, tokenizer, folder / "model")
    write_pairs(pairs, folder / "pairs.jsonl")
    job = {
        "model": str(folder / "model"),
        "data": str(folder / "pairs.jsonl"),
        "out": str(folder / "run"),
        "prompts": case.prompts,
        "pairs": case.pairs,
        "max_length": MAX_LENGTH,
        "lora_rank": case.lora_rank,
        "learning_rate": 1e-5,
        "beta": 0.1,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job, indent=1), encoding="utf-8")
    return path


def hh_pairs(data: Path) -> Iterator[Pair]:
    """Anthropic HH pairs with one prompt on both sides and two different answers, no prompt twice
    (a step counts prompts here and pairs there). Raises FileNotFoundError."""
    seen = set()
    with gzip.open(data / "hh-rlhf-harmless" / "pairs.jsonl.gz", "rt", encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            prompt, _, chosen = row["chosen"].rpartition(ASSISTANT)
            other, _, rejected = row["rejected"].rpartition(ASSISTANT)
            usable = prompt == other and chosen.strip() and rejected.strip() and chosen != rejected
            if usable and prompt not in seen and chosen[0] == rejected[0] == " ":
                seen.add(prompt)
                yield {"prompt": prompt + ASSISTANT, "chosen": chosen, "rejected": rejected}


def gsm8k_pairs(data: Path) -> Iterator[Pair]:
    """Grade-school questions with a right and a wrong solution by a model. FileNotFoundError."""
    path = data / "gsm8k-solutions" / "solutions.jsonl"
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        answers = [a for a in row.values() if isinstance(a, dict)]
        right = [a["solution"] for a in answers if a["is_correct"] and a["solution"].strip()]
        wrong = [a["solution"] for a in answers if not a["is_correct"] and a["solution"].strip()]
        if right and wrong:
            yield {
                "prompt": f"Question: {row['question'].strip()}\nAnswer:",
                "chosen": " " + right[0].strip(),
                "rejected": " " + wrong[0].strip(),
            }


def chat_pairs(data: Path) -> Iterator[Pair]:
    """LLaMA-Factory's demonstration pairs written out as Human / Assistant text, no prompt twice.
    Raises FileNotFoundError."""
    names = {"system": "", "human": "\n\nHuman: ", "gpt": f"{ASSISTANT} "}
    path = data / "llamafactory-demo" / "dpo_en_demo.json"
    seen = set()
    for row in json.loads(path.read_text(encoding="utf-8")):
        turns = "".join(names[t["from"]] + t["value"] for t in row["conversations"])
        chosen, rejected = (" " + row[side]["value"] for side in ("chosen", "rejected"))
        if turns not in seen and chosen != rejected:
            seen.add(turns)
            yield {"prompt": turns + ASSISTANT, "chosen": chosen, "rejected": rejected}


def real_pairs(data: Path) -> list[Pair]:
    """HH pairs in random order, then others: for more pairs than HH has here."""
    others = [*gsm8k_pairs(data), *chat_pairs(data)]
    return shuffled(list(hh_pairs(data))) + shuffled(others)


def word_pairs(case: Case, prompts: int) -> list[Pair]:
    """Random words; a response is better than those after it."""
    random = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(f"w{n}" for n in random.integers(3, TOKENIZER_SIZE, count))

    pairs = []
    system = words(case.system_tokens)
    for _ in range(prompts):
        prompt = f"{system} {words(case.prompt_tokens)}".strip()
        responses = [" " + words(case.response_tokens - 1) for _ in range(case.responses)]
        pairs += [
            {"prompt": prompt, "chosen": better, "rejected": worse}
            for better, worse in combinations(responses, 2)
        ]
    return pairs


def shuffled(pairs: Sequence[Pair]) -> list[Pair]:
    """The order a trainer would draw, drawn once for all sides."""
    return [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]


def fitting(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerFast) -> list[Pair]:
    """Those whose both sides have at most MAX_LENGTH tokens, EOS included."""

    def lengths(side: str) -> list[int]:
        texts = [p["prompt"] + p[side] for p in pairs]
        return [len(ids) + 1 for ids in tokenizer(texts, verbose=False)["input_ids"]]

    both = zip(pairs, lengths("chosen"), lengths("rejected"), strict=True)
    return [pair for pair, *sizes in both if max(sizes) <= MAX_LENGTH]


def text_tokenizer(pairs: Sequence[Pair]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 8,192 tokens learned from the pairs' own texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_SIZE,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((p["prompt"] + p["chosen"] for p in pairs), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of the words "w3" to "w8191": token counts are exact by construction."""
    names = ["<pad>", "<eos>", "<unk>", *(f"w{n}" for n in range(3, TOKENIZER_SIZE))]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def save_model(
    shape: Shape, vocabulary: int, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Random float32 weights of seed 0, in Hugging Face layout with the tokenizer."""
    assert vocabulary >= len(tokenizer), f"{vocabulary} rows for {len(tokenizer)} tokens"
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=max(1, shape.heads // 3),
        head_dim=64,
        max_position_embeddings=2 * MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    disable_progress_bar()
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    lines = (json.dumps(pair, ensure_ascii=False) for pair in pairs)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
