"""The paper's controlled sentiment experiment (section 6.1) on film-review sentences, small.

    python examples/sentiment.py SENTENCES OUT [--betas 0.05,0.1,0.5,1]

SENTENCES is a folder with rt-polarity.pos and rt-polarity.neg (Pang & Lee 2005). As in the paper: a
language model is fitted to the sentences (pi_ref), completes prefixes of 2 to 8 words four times,
and all pairs of completions are labelled by a sentiment classifier, whose log-odds are the true
reward. DPO then trains on the pairs at several beta; reward and KL are measured on other prefixes,
beside the exact optimum. What is finished in OUT is not done again.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import redpencil as rp
from redpencil.evals.frontier import ReferenceSamples, gain_fraction, optimum_frontier

CLASSIFIER = "SENTIMENT_CLASSIFIER"
"""Environment variable that names the classifier's file: `sentiment:log_odds` is a reward by it."""

TOKENS = 48  # of a completion


def grams(text: str) -> set[str]:
    words = re.findall(r"[a-z']+|[!?]", text.lower())
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


def log_odds(
    prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[float]:
    """log p(positive) / p(negative) of whole sentences: the true reward of this world."""
    weights = json.loads(Path(os.environ[CLASSIFIER]).read_text(encoding="utf-8"))
    texts = (p + r for p, r in zip(prompts, responses, strict=True))
    return [sum(weights.get(g, 0.0) for g in ("", *grams(text))) for text in texts]


def fit_classifier(labelled: Sequence[tuple[str, int]], held_out: Sequence[tuple[str, int]]):
    """Logistic regression on words and pairs of words: {gram: weight}, and held-out accuracy."""
    seen = sorted({g for text, _ in labelled for g in grams(text)})
    place = {g: i for i, g in enumerate(seen, start=1)}  # 0 is the intercept, in every text
    texts = [[0, *(place[g] for g in grams(text) if g in place)] for text, _ in labelled]
    flat = torch.tensor([i for text in texts for i in text])
    starts = torch.tensor([0, *(len(t) for t in texts[:-1])]).cumsum(0)
    targets = torch.tensor([float(positive) for _, positive in labelled])
    weights = torch.zeros(len(seen) + 1, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        logits = torch.nn.functional.embedding_bag(flat, weights, starts, mode="sum")[:, 0]
        fit = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        value = fit + 0.5 * weights[1:].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = dict(zip(["", *place], weights.detach()[:, 0].tolist(), strict=True))
    right = sum((sum(found.get(g, 0) for g in ("", *grams(t))) > 0) == p for t, p in held_out)
    return found, right / len(held_out)


def fresh_model(sentences: Sequence[str], folder: Path) -> None:
    """An untrained Llama of 2 million parameters with a byte-level BPE of 4,096 tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    bpe.train_from_iterator(
        sentences,
        trainers.BpeTrainer(vocab_size=4096, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=160,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def cut(sentence: str, rng: random.Random) -> tuple[str, str]:
    """After 2 to 8 words: ("the film is", " a joy .")."""
    words = sentence.split(" ")
    at = rng.randint(2, max(2, min(8, len(words) - 1)))
    return " ".join(words[:at]), "".join(f" {w}" for w in words[at:])


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prepare(source: Path, out: Path) -> tuple[list[str], list[str]]:
    """Classifier, model and rows to fit it to; returns prefixes for pairs, and held-out ones."""
    rng = random.Random(0)
    labelled = [
        (line.strip(), positive)
        for name, positive in (("neg", 0), ("pos", 1))
        for line in (source / f"rt-polarity.{name}").read_text(encoding="utf-8").splitlines()
        if len(line.split()) > 3
    ]
    rng.shuffle(labelled)
    train, test = labelled[1000:], labelled[:1000]
    if not (out / "classifier.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        weights, accuracy = fit_classifier(train, test)
        print(f"classifier: {accuracy:.1%} of 1,000 held-out sentences right")
        fresh_model([t for t, _ in train], out / "fresh")
        rows = [dict(zip(("prompt", "completion"), cut(t, rng), strict=True)) for t, _ in train]
        write_rows(out / "sentences.jsonl", rows)
        (out / "classifier.json").write_text(json.dumps(weights), encoding="utf-8")
    rng = random.Random(1)
    starts = list(dict.fromkeys(cut(t, rng)[0] for t, _ in train))[:2000]
    others = list(dict.fromkeys(cut(t, rng)[0] for t, _ in test))
    return starts, [o for o in others if o not in set(starts)][:300]


def drawn(points: Sequence[Mapping[str, Any]]) -> str:
    """Reward against KL as SVG: the optimum's curve (dashed where it is uncertain), DPO's points
    with two standard errors."""
    width, height, left, top = 640, 400, 60, 20
    far = 1.2 * max(p["kl"] for p in points)
    high = 1.1 * max(p["reward"] for p in points)
    low = min(0.0, 1.1 * min(p["reward"] for p in points))

    def at(kl: float, reward: float) -> tuple[float, float]:
        x = left + kl / far * (width - left - 20)
        return x, height - 50 - (reward - low) / (high - low) * (height - 50 - top)

    parts = []
    for step in range(int(far) + 1):
        x, y = at(step, low)
        parts.append(f'<text x="{x:.0f}" y="{y + 20:.0f}" text-anchor="middle">{step}</text>')
    for step in range(int(low), int(high) + 1):
        x, y = at(0, step)
        parts.append(f'<text x="{x - 12:.0f}" y="{y + 4:.0f}" text-anchor="end">{step}</text>')
        parts.append(f'<path d="M{left} {y:.1f}H{width - 20}" stroke="#ddd"/>')
    best = [(0.0, points[0]["reward"], "")]
    best += [(p["kl"], p["reward"], p["caveat"]) for p in points if p["method"] == "optimum"]
    for (*one, _), (*other, caveat) in pairwise(best):
        path = "M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*at(*one), *at(*other))
        dash = ' stroke-dasharray="4 4"' if caveat else ""
        parts.append(f'<path d="{path}" stroke="#333" stroke-width="2"{dash}/>')
    for p in (p for p in points if p["method"] == "dpo"):
        x, y = at(p["kl"], p["reward"])
        _, above = at(p["kl"], p["reward"] + 2 * p["reward_stderr"])
        parts.append(f'<path d="M{x:.1f} {above:.1f}V{2 * y - above:.1f}" stroke="#c22"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#c22"/>')
        parts.append(f'<text x="{x + 8:.0f}" y="{y + 16:.0f}">DPO, β {p["beta"]:g}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 10}">KL(π ‖ π_ref), nats a sentence</text>')
    parts.append(f'<text x="{left + 8}" y="{top + 4}">reward: log-odds of positive</text>')
    x, y = at(*best[-1][:2])
    parts.append(f'<text x="{x + 8:.0f}" y="{y:.0f}">exact optimum</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" fill="none">'
        '<rect width="100%" height="100%" fill="#fff"/>'
        f'<g font-family="sans-serif" font-size="12"><style>text{{fill:#333}}</style>'
        f"{''.join(parts)}</g></svg>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sentences", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--betas", default="0.05,0.1,0.5,1")
    args = parser.parse_args()
    out = args.out
    starts, held_out = prepare(args.sentences, out)
    os.environ[CLASSIFIER] = str(out / "classifier.json")
    sft = rp.train(
        rp.SftRecipe(
            model=str(out / "fresh"), data=str(out / "sentences.jsonl"), out=str(out / "sft"),
            epochs=6, learning_rate=3e-3, batch_size=32, group_prompts=False, max_length=128,
            eval_every=300, checkpoint_every=10_000, sample_tokens=TOKENS,
        )
    )  # fmt: skip
    pairs = out / "pairs.jsonl"
    if not pairs.exists():
        write_rows(out / "prefixes.jsonl", [{"prompt": start} for start in starts])
        command = [
            "generate", str(sft.model), "--data", str(out / "prefixes.jsonl"), "--num", "4",
            "--label", "sentiment:log_odds", "--label-by", "bradley-terry",
            "--max-new-tokens", str(TOKENS), "--out", str(pairs),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        call = "import sys; from redpencil.cli.main import main; sys.exit(main())"
        subprocess.run([sys.executable, "-c", call, *command], check=True, env=environment)
    reference = rp.load(sft.path)

    def stands(policy, num):
        return rp.reward_and_kl(
            policy, reference, held_out, log_odds, num=num, max_new_tokens=TOKENS, seed=1
        )

    drawn = rp.sampled_rewards(reference, held_out, log_odds, num=64, max_new_tokens=TOKENS, seed=2)
    samples = ReferenceSamples.drawn(drawn)
    points = [{"method": "reference", "reward": float(drawn.mean()), "kl": 0.0}]
    for beta in map(float, args.betas.split(",")):
        run = rp.train(
            rp.DpoRecipe(
                model=str(sft.model), data=str(pairs), out=str(out / f"dpo-{beta}"), beta=beta,
                batch_size=32, epochs=2, learning_rate=3e-4, max_length=128, sample_tokens=TOKENS,
                eval_every=60, checkpoint_every=10_000,
            )
        )  # fmt: skip
        point = stands(rp.load(run.path), 2)
        fraction = gain_fraction(point, samples)
        points.append(
            {
                "method": "dpo", "beta": beta,
                "reward": point.reward.value, "reward_stderr": point.reward.total,
                "kl": point.kl.value, "kl_stderr": point.kl.total,
                "accuracy": run.summary["eval_after"]["rewards/accuracies"],
                "fraction": fraction.fraction.value, "caveat": fraction.optimum.caveat,
            }
        )  # fmt: skip
        print(json.dumps(points[-1]))
    for best in optimum_frontier(samples, [8, 4, 3, 2, 1.5, 1.2, 1.0, 0.8]):
        points.append(
            {
                "method": "optimum", "beta": best.beta, "reward": best.point.reward.value,
                "kl": best.point.kl.value, "caveat": best.caveat,
            }
        )  # fmt: skip
    write_rows(out / "points.jsonl", points)
    (out / "frontier.svg").write_text(drawn(points), encoding="utf-8")
    print(f"written   {out / 'points.jsonl'}, {out / 'frontier.svg'}")


if __name__ == "__main__":
    main()
