"""Suspect labels from end to end, on a tiny model: found, written, mended, read again."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from redpencil.cli.main import main
from redpencil.data.group import number_responses
from redpencil.data.records import load_records
from redpencil.data.tree import lay_trees
from redpencil.errors import DataError, RecipeError
from redpencil.scores.features import oracle_features, tree_features
from redpencil.scores.forward import Scorer
from redpencil.use.mending import write_mended
from redpencil.use.pair_features import WIDEST, pair_set, response_features, word_features
from redpencil.use.suspects import find_suspects, suspects_of_run
from redpencil.use.suspects_told import finding, flipped, named
from tiny_runs import recipe
from zoo import random_examples, tiny_model

GOOD, BAD = ("superb", "witty", "moving", "brilliant"), ("dull", "awful", "silly", "hideous")
COUNT = 300


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """300 pairs in which praise wins, but for every tenth, which is labelled the wrong way."""
    rng = random.Random(0)
    rows = []
    for i in range(COUNT):
        good, bad = (said(rng, words) for words in (GOOD, BAD))
        sides = (bad, good) if i % 10 == 0 else (good, bad)
        rows.append({"id": i, "prompt": f"Film {i}", "chosen": sides[0], "rejected": sides[1]})
    path = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    write(path, rows)
    return path


def said(rng, words):
    return f" was {', '.join(rng.sample(words, 3))}."


def nearly_all(found, wrong):
    """Nothing but what is wrong, and at most one in six of that is missing."""
    assert found <= wrong
    return len(found) >= 5 / 6 * len(wrong)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


WRONG = set(range(1, COUNT + 1, 10))
"""Rows of the file whose labels are reversed."""


@pytest.mark.parametrize("judge", ["words", "model"])
def test_the_reversed_are_found(reviews, base, judge):
    found = find_suspects(str(reviews), model=str(base) if judge == "model" else None)
    rows = found.rows()
    assert nearly_all({r["row"] for r in rows}, WRONG)
    assert [r["probability"] for r in rows] == sorted(r["probability"] for r in rows)
    assert all(r["probability"] < 0.5 and r["file"] == str(reviews) for r in rows)
    assert any(word in rows[0]["chosen"] for word in BAD)
    head = found.header
    assert head["pairs"] == COUNT and head["suspects"] == len(rows)
    assert head["noise_rate_interval"][0] <= 0.1 <= head["noise_rate_interval"][1]
    assert abs(head["expected_wrong"] - 30) <= 6
    assert set(head["features"]) == ({"words"} if judge == "words" else {"words", "hidden states"})
    json.dumps(head)


@pytest.mark.parametrize("how", ["drop", "flip", "soften"])
def test_mending_writes_every_row_and_logs_every_change(reviews, tmp_path, how):
    found = find_suspects(str(reviews))
    out = tmp_path / "mended.jsonl"
    mended = write_mended(found, out, how)
    assert mended.pairs == 30 and mended.removed == (30 if how == "drop" else 0)
    before, after = {r["id"]: r for r in read(reviews)}, {r["id"]: r for r in read(out)}
    wrong = {number - 1 for number in WRONG}
    assert all(after[i] == before[i] for i in before if i not in wrong)
    right = {r["row"] - 1: r["probability"] for r in found.rows()}
    for i in wrong:
        if how == "drop":
            assert i not in after
        elif how == "flip":
            was = before[i]
            assert after[i] == {**was, "chosen": was["rejected"], "rejected": was["chosen"]}
        else:
            assert after[i] == {**before[i], "probability": right[i]}
    log = read(tmp_path / "mended.log.jsonl")
    assert [entry["row"] for entry in log] == sorted(WRONG)
    action = "removed" if how == "drop" else "changed"
    done = {(entry["action"], entry["reason"], entry["how"]) for entry in log}
    assert done == {(action, "suspect-label", how)}
    again = load_records(str(out), purpose="preference")
    assert len(again.records) == COUNT - mended.removed and not again.dropped


def test_flipped_data_have_no_suspects(reviews, tmp_path):
    out = tmp_path / "mended.jsonl"
    write_mended(find_suspects(str(reviews)), out, "flip")
    found = find_suspects(str(out))
    assert not found.mendable and found.header["noise_rate"] <= 0.01
    with pytest.raises(DataError, match="nothing to mend"):
        write_mended(found, tmp_path / "other.jsonl", "drop")


def test_a_csv_file_is_mended_under_our_names(reviews, tmp_path):
    path, out = tmp_path / "reviews.csv", tmp_path / "mended.jsonl"
    lines = [f'{r["prompt"]},"{r["chosen"]}","{r["rejected"]}",{r["id"]}' for r in read(reviews)]
    path.write_text("\n".join(["question,good,bad,id", *lines]) + "\n")
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    found = find_suspects(str(path), columns=columns)
    assert write_mended(found, out, "soften", columns=columns).pairs == 30
    rows = read(out)
    assert rows[0].keys() == {"prompt", "chosen", "rejected", "id", "probability"}
    assert len(load_records(str(out), purpose="preference").records) == COUNT


def test_several_pairs_of_a_row_are_named_by_its_responses(tmp_path):
    rng = random.Random(1)
    rows = []
    for i in range(COUNT):
        texts = [said(rng, words) for words in (GOOD, BAD)]
        texts += ["", f" {i} was here."]
        sides = [1, 0] if i % 10 == 0 else [0, 1]
        rows.append({"prompt": f"F {i}", "responses": texts, "comparisons": [sides]})
    path, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    write(path, rows)
    found = find_suspects(str(path))
    assert nearly_all({r["row"] for r in found.rows()}, set(range(1, COUNT + 1, 10)))
    write_mended(found, out, "flip")
    assert sum(row["comparisons"] == [[0, 1]] for row in read(out)) == 270 + len(found.rows())


def test_no_pattern_no_suspects(tmp_path):
    rng = random.Random(3)
    words = [f"w{i}" for i in range(40)]
    rows = [
        {"prompt": f"p{i}", "chosen": " ".join(rng.choices(words, k=6)),
         "rejected": " ".join(rng.choices(words, k=6))}
        for i in range(300)
    ]  # fmt: skip
    write(tmp_path / "p.jsonl", rows)
    found = find_suspects(str(tmp_path / "p.jsonl"))
    assert found.rows() == [] and found.header["expected_precision"] is None
    assert found.header["refusal"]


def test_one_prompt_for_all_is_cut_by_responses(reviews, tmp_path):
    rows = [{**r, "prompt": "Film", "chosen": f"{r['chosen']} {r['id']}",
             "rejected": f"{r['rejected']} {r['id']}"} for r in read(reviews)]  # fmt: skip
    write(tmp_path / "p.jsonl", rows)
    found = find_suspects(str(tmp_path / "p.jsonl"))
    assert found.header["folds_by"] == "response"
    assert {r["row"] for r in found.rows()} == WRONG


def test_too_little_is_said(tmp_path):
    write(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": f"b{i}", "rejected": "c"}
                                 for i in range(9)])  # fmt: skip
    with pytest.raises(DataError, match="too few"):
        find_suspects(str(tmp_path / "p.jsonl"))
    with pytest.raises(RecipeError, match="at least 3"):
        find_suspects(str(tmp_path / "p.jsonl"), folds=2)


def test_labels_of_single_responses_are_judged_but_not_mended(tmp_path):
    rng = random.Random(2)
    rows = []
    for i in range(COUNT):
        for label, words in ((i % 10 != 0, GOOD), (i % 10 == 0, BAD)):
            text = said(rng, words)
            rows.append({"prompt": f"F {i}", "completion": text, "label": label})
    write(tmp_path / "p.jsonl", rows)
    found = find_suspects(str(tmp_path / "p.jsonl"))
    assert nearly_all({(r["row"] - 1) // 2 + 1 for r in found.rows()}, WRONG)
    with pytest.raises(DataError, match="which of its two labels"):
        write_mended(found, tmp_path / "out.jsonl", "drop")
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_that_cannot_be_read_are_left_to_the_doctor(reviews, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": 5}\n' + reviews.read_text())
    assert {r["row"] - 1 for r in find_suspects(str(path)).rows()} == WRONG


def test_features_by_trees_are_those_of_the_oracle():
    """In the order of the examples, equal ones computed once, prompts shared or not."""
    model = tiny_model("llama")
    examples = [*random_examples(0, 3), *random_examples(1, 2)]
    examples = number_responses([*examples, examples[0]])
    by_tree, by_oracle = (
        response_features(model, score, Scorer(name, score, ""), examples)
        for name, score in (("tree", installed(tree_features)), ("oracle", oracle_features))
    )
    assert by_tree.shape == (6 + 4 + 3, 64)
    np.testing.assert_allclose(by_tree, by_oracle, atol=2e-5)
    np.testing.assert_array_equal(by_tree[:3], by_tree[-3:])
    with torch.no_grad():
        alone = oracle_features(model, lay_trees(examples[:1], feed_last=True))
    np.testing.assert_allclose(by_oracle[:3], alone, atol=2e-5)


def installed(score):
    from redpencil.models.attention import install

    def run(model, batch):
        install(model)
        return score(model, batch)

    return run


def test_wide_features_are_projected_and_keep_their_distances():
    drawn = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3 * WIDEST))).float()

    def score(model, batch):
        return drawn[batch.response_index]

    examples = number_responses(random_examples(0, 2))
    way = SimpleNamespace(name="tree")
    found = response_features(torch.nn.Linear(1, 1), score, way, examples)
    assert found.shape == (4, WIDEST)
    ratio = np.linalg.norm(found[0] - found[1]) / np.linalg.norm(drawn[0] - drawn[1])
    assert 0.9 < ratio < 1.1


def test_words_count_where_they_are_frequent():
    found = word_features(["a b", "a c", "a", "a", "a d d"])
    assert found.shape[1] == 3 + 1  # "a" and the two ends, and the length
    assert (found[:, :3] == 1).all() and found[4, 3] > found[0, 3] > found[2, 3]


def test_pairs_point_at_their_responses():
    from redpencil.data.records import records_from_rows

    records = records_from_rows(
        [{"prompt": "a", "responses": ["x", "y", "z"], "ranking": [3, 1, 2]},
         {"prompt": "b", "chosen": "u", "rejected": "v"}][:1], "preference"
    ).records  # fmt: skip
    pairs = pair_set(records)
    named = {
        (pairs.texts[c], pairs.texts[r]) for c, r in zip(pairs.chosen, pairs.rejected, strict=True)
    }
    assert named == {("y", "z"), ("y", "x"), ("z", "x")} and len(set(pairs.keys)) == 1


# The commands


@pytest.fixture(scope="module")
def run(reviews, base, tmp_path_factory):
    from redpencil.stages.run import train

    out = tmp_path_factory.mktemp("run") / "run"
    return train(recipe(base, reviews, out, epochs=1, max_steps=1, sample_prompts=0)).path


def test_a_run_keeps_its_suspects(run, reviews, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    command = ["note", str(run), "--suspects", "--fix", str(out), "--as", "flip", "--top", "1"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "more likely wrong than right" in said and "flipped" in said
    head, rows = json.loads((run / "suspects.json").read_text()), read(run / "suspects.jsonl")
    assert head["suspects"] == len(rows) and nearly_all({r["row"] for r in rows}, WRONG)
    assert {"method", "folds", "pairs", "expected_wrong", "threshold"} <= head.keys()
    assert {"file", "row", "prompt", "chosen", "rejected", "probability"} <= rows[0].keys()
    assert len(read(out)) == COUNT
    assert main(command) == 2  # nothing is written over
    assert "exists" in capsys.readouterr().err


def test_a_run_whose_data_changed_is_not_judged(run, reviews, tmp_path):
    text = reviews.read_text()
    try:
        reviews.write_text(text.replace("superb", "fine"))
        with pytest.raises(DataError, match="changed"):
            suspects_of_run(run)
    finally:
        reviews.write_text(text)


@pytest.mark.parametrize("how", ["drop", "flip"])
def test_check_names_and_mends_them(reviews, tmp_path, capsys, how):
    out = tmp_path / "out.jsonl"
    command = ["check", str(reviews), "--suspects", "--fix", str(out), "--suspects-as", how]
    assert main([*command, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert {r["row"] for r in said["suspects"]["rows"]} == WRONG
    (finding,) = (f for f in said["findings"] if f["key"] == "suspect-label")
    assert (finding["severity"], finding["count"]) == ("warning", 30)
    fixed, log = said["fixed"], read(tmp_path / "out.log.jsonl")
    about = [entry for entry in log if entry["reason"] == "suspect-label"]
    assert fixed["kept"] + sum(fixed["removed"].values()) == COUNT
    assert sum(entry["action"] == "removed" for entry in log) == sum(fixed["removed"].values())
    dropped = how == "drop"
    assert fixed["removed"].get("suspect-label", 0) == (30 if dropped else 0)
    assert fixed["mended"] == (0 if dropped else 30)
    assert {(e["action"], e["how"]) for e in about} == {("removed" if dropped else "changed", how)}
    assert bool(WRONG & {r["id"] + 1 for r in read(out)}) is not dropped


def test_check_says_suspects_before_the_numbers_and_once(reviews, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    command = ["check", str(reviews), "--suspects", "--fix", str(out), "--suspects-as"]
    main([*command, "flip"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.index("[suspect-label]") < said.index("Numbers")
    assert "Changed: 30 suspect pairs were mended." in said and "No row was changed" not in said
    command[command.index(str(out))] = str(tmp_path / "other.jsonl")
    main([*command, "drop"])
    said = " ".join(capsys.readouterr().out.split())
    assert "suspect-label 30" in said and "were mended" not in said


def test_check_keeps_its_diagnosis_where_suspects_cannot_be_told(tmp_path, capsys):
    write(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": f"b{i}", "rejected": "c"}
                                 for i in range(9)])  # fmt: skip
    assert main(["check", str(tmp_path / "p.jsonl"), "--suspects"]) == 2
    told = capsys.readouterr()
    assert "9 read" in told.out and "too few" in told.err


def test_an_interval_that_touches_zero_gives_no_number(reviews):
    found = find_suspects(str(reviews))
    assert "labels that look flipped: about" in flipped(found)
    doubtful = replace(found, verdict=replace(found.verdict, rate=0.26, rate_interval=(0.0, 0.325)))
    assert finding(found).severity == "warning" and finding(doubtful).severity == "note"
    assert "more likely wrong" in named(found) and "if there are any" in named(doubtful)
    for said in (flipped(doubtful), finding(doubtful).text):
        assert "cannot tell" in said and "0.0% to 32.5%" in said and "about 26" not in said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["note", "RUN", "--fix", "o.jsonl"], ["--fix", "--suspects"]),
        (["note", "RUN", "--as", "flip"], ["--as", "--suspects"]),
        (["note", "RUN", "--folds", "3"], ["--folds", "--suspects"]),
        (["note", "RUN", "--suspects", "--as", "flip"], ["--as", "--fix"]),
        (["note", "RUN", "--suspects", "--kind", "broken"], ["--suspects", "--kind"]),
        (["note", "nowhere", "--suspects"], ["nowhere"]),
        (["note", "RUN", "--suspects", "--folds", "2"], ["--folds 2", "3"]),
        (["check", "DATA", "--suspects-as", "flip"], ["--suspects-as", "--suspects"]),
        (["check", "DATA", "--suspects", "--suspects-as", "flip"], ["--suspects-as", "--fix"]),
    ],
)
def test_options_that_would_do_nothing(argv, words, run, reviews, capsys):
    named = {"RUN": str(run), "DATA": str(reviews)}
    assert main([named.get(a, a) for a in argv]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words) and "Traceback" not in said
