"""What a run reads, and what it says of it."""

import json

import redpencil as rp
from redpencil.models.tokenizer import load_tokenizer
from redpencil.stages.prepare import prepare


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_facts_count_both_files(base, tmp_path, capsys):
    pair = {"chosen": " was superb.", "rejected": " was dull."}
    train = [{"prompt": p, **pair} for p in ("The plot", "The cast", "The music", "The end")]
    other = [{"prompt": "The cast", **pair}, {"prompt": "The film", **pair, "chosen": " "}]
    made = rp.DpoRecipe(
        model=str(base),
        data=write(tmp_path / "train.jsonl", train),
        eval_data=write(tmp_path / "eval.jsonl", other),
        out=str(tmp_path / "out"),
    )
    prepared = prepare(made, "preference", load_tokenizer(str(base)), 64)
    facts = prepared.facts
    assert facts["rows_read"] == 6
    assert facts["set_aside"] == {"empty response": 1, "prompt is in the evaluation data": 1}
    kept = facts["train_pairs"] + facts["eval_pairs"]
    assert kept + sum(facts["set_aside"].values()) == facts["rows_read"]
    said = " ".join(capsys.readouterr().out.split())
    assert "train.jsonl and" in said and "eval.jsonl: 6 rows" in said
