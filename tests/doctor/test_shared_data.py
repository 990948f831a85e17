"""The defects that real files are known to have, counted; and no others."""

import json

import pytest

from patients import diagnose, found, rows_of
from redpencil.data.reading import Source
from redpencil.doctor.fix import fix

KOREAN = {
    "prompt": "instruction",
    "responses": "candidates.answer",
    "scores": "candidates.score",
}
EVALS = {
    "prompt": "question",
    "chosen": "answer_matching_behavior",
    "rejected": "answer_not_matching_behavior",
    "probability": "label_confidence",
}


def counts(seen):
    return {key: finding.count for key, finding in seen.items()}


def test_transcripts(shared_data):
    diagnosis = diagnose(str(shared_data / "hh-rlhf-harmless/pairs.jsonl.gz"))
    seen = found(diagnosis)
    assert counts(seen) == {
        "different-prompts": 3,
        "empty-response": 3,
        "roles-out-of-order": 4,
        "prefix-pair": 1,
    }
    assert rows_of(seen["different-prompts"]) == [1126, 1302, 1358]
    assert rows_of(seen["empty-response"]) == [58, 617, 736]
    assert "(chosen 3)" in seen["empty-response"].text
    assert rows_of(seen["roles-out-of-order"]) == [445, 509, 880, 1233]
    assert (diagnosis.rows_read, diagnosis.kept) == (1541, 1535)


def test_sharegpt_pairs(shared_data):
    diagnosis = diagnose(str(shared_data / "llamafactory-demo/dpo_en_demo.json"))
    seen = found(diagnosis)
    assert rows_of(seen["duplicate"]) == [158, 187, 231, 249, 276]
    assert rows_of(seen["mojibake"]) == [16]
    assert rows_of(seen["control-character"]) == [287]  # \frac with its backslash eaten
    assert counts(seen) == {
        "duplicate": 5,
        "mojibake": 1,
        "control-character": 1,
        "unseen-character": 1,
    }
    assert diagnosis.kept == 300


def test_unpaired_labels(shared_data):
    diagnosis = diagnose(str(shared_data / "llamafactory-demo/kto_en_demo.json"))
    seen = found(diagnosis)
    assert diagnosis.kept == 2 and diagnosis.set_aside == {"unpaired label": 298}
    assert "1 prompt has answers with both labels" in seen["unpaired-label"].text
    assert rows_of(seen["template-text"]) == [140, 258]
    assert rows_of(seen["turn-marker"]) == [99]
    assert rows_of(seen["mojibake"]) == [246, 260]
    assert len(seen) == 5 and "2 of 300 rows are left" in seen["little-left"].text
    assert [f.key for f in diagnosis.findings][:2] == ["little-left", "unpaired-label"]
    assert seen["unpaired-label"].severity == "error"


def test_korean_rankings(shared_data):
    diagnosis = diagnose(str(shared_data / "komt-korean-ranked/ranked.jsonl"), columns=KOREAN)
    seen = found(diagnosis)
    assert counts(seen) == {
        "template-text": 24,
        "replacement-character": 2,
        "placeholder-answer": 17,
        "identical-responses": 15,
        "unused-columns": 24,
        "unseen-character": 7,
        "ties": 24,
    }
    assert "</s> 106 times" in seen["template-text"].text
    assert '"no answer" 38 times' in seen["placeholder-answer"].text
    assert rows_of(seen["replacement-character"]) == [2, 16]


def test_korean_rankings_fixed(shared_data, tmp_path):
    source = Source(str(shared_data / "komt-korean-ranked/ranked.jsonl"), None, KOREAN)
    fixed = fix(source, tmp_path / "out.jsonl")
    assert (fixed.kept, fixed.changed, dict(fixed.removed)) == (24, 24, {})
    after = found(diagnose(str(tmp_path / "out.jsonl"), columns=KOREAN))
    assert "template-text" not in after and "placeholder-answer" in after


def test_graded_solutions(shared_data, tmp_path):
    """K = 4, right or wrong: 296 prompts have none right, 109 have all right."""
    source = shared_data / "gsm8k-solutions/solutions.jsonl"
    with (tmp_path / "ranked.jsonl").open("w") as out:
        for line in source.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            answers = [v for v in row.values() if isinstance(v, dict)]
            ranked = {
                "prompt": row["question"],
                "responses": [a["solution"] for a in answers],
                "scores": [float(a["is_correct"]) for a in answers],
            }
            out.write(json.dumps(ranked) + "\n")
    diagnosis = diagnose(str(tmp_path / "ranked.jsonl"))
    seen = found(diagnosis)
    assert counts(seen) == {"all-tied": 405, "ties": 879, "identical-responses": 5}
    assert "296 at score 0, 109 at score 1" in seen["ties"].text
    assert diagnosis.kept == 879 - 405


@pytest.mark.parametrize("name", ["agreeableness", "interest-in-science"])
def test_yes_and_no(shared_data, name):
    diagnosis = diagnose(str(shared_data / f"anthropic-evals/{name}.jsonl"), columns=EVALS)
    assert set(found(diagnosis)) <= {"unused-columns"} and diagnosis.kept == 1000


def test_the_same_review_rated_both_ways(shared_data, tmp_path):
    source = shared_data / "nsmc-korean/ratings.jsonl"
    with (tmp_path / "pairs.jsonl").open("w") as out:
        for line in source.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            sides = ("good", "bad") if row["rating"] >= 6 else ("bad", "good")
            pair = {"prompt": row["review"], "chosen": sides[0], "rejected": sides[1]}
            out.write(json.dumps(pair) + "\n")
    seen = found(diagnose(str(tmp_path / "pairs.jsonl")))
    assert seen["both-ways"].count == 21 and "7 comparisons" in seen["both-ways"].text
    assert seen["duplicate"].count == 53
    assert set(seen) == {"both-ways", "duplicate"}


def test_abstracts_and_summaries(shared_data, tmp_path):
    source = shared_data / "scitldr/dev.jsonl"
    with (tmp_path / "sft.jsonl").open("w") as out:
        for line in source.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            completion = {"prompt": " ".join(row["source"]), "completion": row["target"][0]}
            out.write(json.dumps(completion) + "\n")
    diagnosis = diagnose(str(tmp_path / "sft.jsonl"))
    assert rows_of(found(diagnosis)["duplicate"]) == [572]
    assert set(found(diagnosis)) == {"duplicate"} and diagnosis.kept == 619
