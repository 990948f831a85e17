"""Turn graded solutions into ranked rows: one prompt, four responses, right beats wrong.

    python examples/gsm8k_to_ranked.py solutions.jsonl ranked.jsonl
    redpencil dpo --model MODEL --data ranked.jsonl --out runs/maths

Rows of the source hold a `question` and, for each of several models, a `solution` with
`is_correct`. A prompt whose answers are all right or all wrong has nothing to compare; redpencil
sets it aside ("all responses tied") and lists it.
"""

import json
import sys
from pathlib import Path


def ranked(row: dict) -> dict:
    answers = [v for v in row.values() if isinstance(v, dict) and "is_correct" in v]
    return {
        "prompt": f"Question: {row['question']}\nAnswer:",
        "responses": [f" {a['solution']}" for a in answers],
        "scores": [float(a["is_correct"]) for a in answers],
    }


def main(source: str, target: str) -> None:
    lines = Path(source).read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    with Path(target).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(ranked(row), ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
