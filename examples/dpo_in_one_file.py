"""Direct Preference Optimization in one file.

The story (Rafailov et al. 2023, arXiv 2305.18290): people compared two answers to a prompt x and
preferred y_w to y_l. If their preferences follow a hidden reward r,

    p(y_w beats y_l | x) = sigma(r(x, y_w) - r(x, y_l)),                                   [Eq. 1]

then the best policy for that reward, under a KL penalty beta that keeps it near a reference, is

    pi(y|x) = pi_ref(y|x) exp(r(x, y) / beta) / Z(x).                                      [Eq. 4]

Nobody can compute Z(x). But read backwards, the same equation says what a policy's reward is:

    r(x, y) = beta log(pi(y|x) / pi_ref(y|x)) + beta log Z(x),                             [Eq. 5]

and in a comparison of two answers to one prompt Z(x) cancels. So the policy can be fitted to the
comparisons directly, as if it were the reward model, which it secretly is:

    loss = -log sigma(beta log pi(y_w|x)/pi_ref(y_w|x) - beta log pi(y_l|x)/pi_ref(y_l|x)). [Eq. 7]

That is all. No reward model, no sampling, no reinforcement learning. Try it:

    python examples/dpo_in_one_file.py --model MODEL --data pairs.jsonl --out aligned

where each line of pairs.jsonl is {"prompt": "...", "chosen": "...", "rejected": "..."}. This file
needs torch and transformers only. It is slow and obvious on purpose; redpencil does the same
sums much faster, and a test holds the two to the same loss curve.
"""

import argparse
import itertools
import json
import math
import random

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer


def encode(pair, tokenizer):
    """A pair of strings as token ids: (prompt, chosen, rejected).

    The prompt begins as the tokenizer begins a text (with BOS, if it does that). Each answer ends
    with EOS: where to stop is part of the answer, and is learned like the rest of it.
    """
    prompt = tokenizer(pair["prompt"]).input_ids
    answers = [tokenizer(pair[side], add_special_tokens=False) for side in ("chosen", "rejected")]
    return prompt, *([*answer.input_ids, tokenizer.eos_token_id] for answer in answers)


def sequence_logps(model, prompts, answers):
    """log pi(y|x) for each prompt x and answer y: (B,), summed over the answer's tokens.

    Sequences are padded on the right, where a causal model cannot see the padding.
    """
    sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, sequences))
    device = next(model.parameters()).device
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences], device=device)
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences], device=device)
    is_answer = mask.bool()
    for row, prompt in zip(is_answer, prompts, strict=True):
        row[: len(prompt)] = False

    logits = model(input_ids=ids, attention_mask=mask).logits.float()  # (B, L, V)
    logps = logits[:, :-1].log_softmax(-1)  # the logits at token t are about token t + 1
    token_logps = logps.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return (token_logps * is_answer[:, 1:]).sum(-1)


def pair_logps(model, pairs):
    """Log-probabilities of pairs: all chosen answers first, then all rejected ones, (2 n,)."""
    prompts, chosen, rejected = map(list, zip(*pairs, strict=True))
    return sequence_logps(model, prompts * 2, chosen + rejected)


def dpo_loss(pi_logps, ref_logps, yw_idxs, yl_idxs, beta):
    """The loss of each pair, as printed in the paper's appendix B."""
    pi_logratios = pi_logps[yw_idxs] - pi_logps[yl_idxs]
    ref_logratios = ref_logps[yw_idxs] - ref_logps[yl_idxs]
    losses = -F.logsigmoid(beta * (pi_logratios - ref_logratios))  # Eq. 7
    rewards = beta * (pi_logps - ref_logps).detach()  # Eq. 5, without the Z(x) that cancels
    return losses, rewards


def train(
    model,
    tokenizer,
    pairs,
    *,
    beta,
    learning_rate,
    batch_size,
    steps,
    max_grad_norm=0.0,
    warmup_steps=0,
    report=lambda step, loss, accuracy: None,
):
    """Train `model` in place on pairs in the given order, round and round; the loss of each step.

    AdamW without weight decay. The learning rate rises linearly over the first `warmup_steps`
    updates (the paper: 150) and then stays. max_grad_norm 0 means no clipping.
    """
    model.eval()  # no dropout: at the first step the policy must be the reference exactly
    encoded = [encode(pair, tokenizer) for pair in pairs]

    # The reference is the model as it is now. It never changes, and only its log-probabilities of
    # these very answers are needed, so they are computed once and no second model is kept.
    with torch.no_grad():
        reference = [pair_logps(model, [pair]) for pair in encoded]  # n times (2,)

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    stream = itertools.cycle(range(len(encoded)))
    curve = []
    for step in range(1, steps + 1):
        batch = list(itertools.islice(stream, batch_size))
        yw_idxs = torch.arange(len(batch))
        yl_idxs = yw_idxs + len(batch)

        pi_logps = pair_logps(model, [encoded[i] for i in batch])
        ref_logps = torch.stack([reference[i] for i in batch], dim=1).flatten()  # chosen first
        losses, rewards = dpo_loss(pi_logps, ref_logps, yw_idxs, yl_idxs, beta)

        # The gradient pushes y_w up and y_l down, each pair with the force sigma(r_l - r_w):
        # hard where the implicit reward orders the pair wrongly, hardly where it is right.
        optimizer.zero_grad()
        losses.mean().backward()
        if max_grad_norm:
            clip_grad_norm_(model.parameters(), max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, step / max(warmup_steps, 1))
        optimizer.step()

        curve.append(losses.mean().item())
        lead = rewards[yw_idxs] - rewards[yl_idxs]
        report(step, curve[-1], ((1 + lead.sign()) / 2).mean().item())  # a tie is half right
    return curve


def draw(step, loss, accuracy):
    """One line of the loss curve; the bar at step 1 is ln 2, for the policy is the reference."""
    bar = "█" * round(30 * min(loss / math.log(2), 1.5))
    print(f"step {step:4d}   loss {loss:.4f}   pairs in order {accuracy:4.0%}   {bar}")


def read_pairs(path):
    """The rows of a JSONL file, blank lines left out."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def main():
    parser = argparse.ArgumentParser(description="Direct Preference Optimization in one file.")
    parser.add_argument("--model", required=True, help="Hugging Face folder or Hub name")
    parser.add_argument("--data", required=True, help="JSONL of prompt, chosen, rejected")
    parser.add_argument("--beta", type=float, default=0.1, help="strength of the KL penalty")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs in a step")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--max-grad-norm", type=float, default=1.0, help="0 is no clipping")
    parser.add_argument("--seed", type=int, default=0, help="order of the pairs")
    parser.add_argument("--out", help="folder for the aligned model")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).to(device)
    pairs = read_pairs(options.data)
    random.Random(options.seed).shuffle(pairs)

    train(
        model,
        tokenizer,
        pairs,
        beta=options.beta,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        steps=options.steps,
        max_grad_norm=options.max_grad_norm,
        warmup_steps=options.warmup_steps,
        report=draw,
    )
    if options.out:
        model.save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
