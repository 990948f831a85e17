"""The two sides of a pair, and several judged responses."""

import pytest

from patients import diagnose, found, pair, rows_of, write


def keys(tmp_path, rows, columns=None):
    return found(diagnose(write(tmp_path / "a.jsonl", rows), columns=columns))


def test_rows_that_teach_nothing(tmp_path):
    rows = [pair(1), pair(2, chosen=" "), pair(3, rejected=pair(3)["chosen"]), pair(4, rejected="")]
    rows.append(pair(5))
    seen = keys(tmp_path, rows)
    assert rows_of(seen["empty-response"]) == [2, 4]
    assert rows_of(seen["identical-pair"]) == [3] and set(seen) == {
        "empty-response",
        "identical-pair",
    }


def test_sides_with_different_prompts(tmp_path):
    def talk(asked, answered):
        return f"\n\nHuman: {asked}\n\nAssistant: {answered}"

    rows = [{"chosen": talk(n, "a"), "rejected": talk(n + (n == 2), "b")} for n in range(4)]
    assert rows_of(keys(tmp_path, rows)["different-prompts"]) == [3]


def test_a_beginning_and_white_space(tmp_path):
    rows = [
        pair(1, chosen="You are right.", rejected="You are right. And more."),
        pair(2, chosen="a  b\n", rejected=" a b"),
        pair(3, chosen="Yes", rejected="yes, so"),
    ]
    seen = keys(tmp_path, rows)
    assert rows_of(seen["prefix-pair"]) == [1] and "chosen in 1." in seen["prefix-pair"].text
    assert rows_of(seen["whitespace-pair"]) == [2]
    assert set(seen) == {"prefix-pair", "whitespace-pair"}


def scored(chosen, rejected, count, first=0):
    return [
        pair(n, score_chosen=chosen, score_rejected=rejected) for n in range(first, first + count)
    ]


def test_scores_that_agree(tmp_path):
    seen = keys(tmp_path, scored(5, 3.5, 12))
    assert set(seen) <= {"unused-columns"}


def test_a_few_scores_that_contradict(tmp_path):
    seen = keys(tmp_path, [*scored(5, 3, 9), *scored(2, 4, 2, 9), *scored(1, 1, 1, 11)])
    assert rows_of(seen["score-disagrees"]) == [10, 11] and seen["score-disagrees"].of == 12
    assert rows_of(seen["score-tie"]) == [12]
    assert "swapped-columns" not in seen


def test_most_scores_contradict(tmp_path):
    seen = keys(tmp_path, [*scored(2, 4, 12), *scored(5, 3, 3, 12)])
    assert seen["swapped-columns"].count == 12 and seen["swapped-columns"].severity == "error"
    advised = "--columns chosen=rejected,rejected=chosen"
    assert seen["swapped-columns"].advice.endswith(advised)


def test_the_advised_swap_is_right_and_its_reverse_is_not(tmp_path):
    """What is typed as advised has no such finding; then the same columns advise to turn back."""
    rows = [*scored(2, 4, 12), *scored(5, 3, 3, 12)]
    turned = {"chosen": "rejected", "rejected": "chosen"}
    assert "swapped-columns" not in keys(tmp_path, rows, turned)
    rows = [*scored(4, 2, 12), *scored(3, 5, 3, 12)]
    assert "swapped-columns" not in keys(tmp_path, rows)
    wrong = keys(tmp_path, rows, turned)["swapped-columns"]
    assert wrong.advice.endswith("leave --columns out")


def test_the_advised_swap_names_their_columns(tmp_path):
    rows = [
        {"q": f"{n}?", "my a": f"yes {n}", "b": f"no {n}", "score_chosen": 1, "score_rejected": 2}
        for n in range(12)
    ]
    columns = {"prompt": "q", "chosen": "my a", "rejected": "b"}
    seen = keys(tmp_path, rows, columns)
    assert seen["swapped-columns"].advice.endswith("--columns 'prompt=q,chosen=b,rejected=my a'")


@pytest.mark.parametrize("names", [("chosen_length", "rejected_length"), ("rank_chosen", "x")])
def test_columns_that_are_no_scores(tmp_path, names):
    rows = [pair(n, **{names[0]: 1, names[1]: 5}) for n in range(12)]
    assert set(keys(tmp_path, rows)) == {"unused-columns"}


def test_stand_ins_on_the_chosen_side(tmp_path):
    bad = [pair(n, chosen="No answer", rejected=f"Because of {n}") for n in range(12)]
    good = [pair(n) for n in range(12, 20)]
    assert "swapped-columns" in keys(tmp_path, [*bad, *good])
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in bad]
    assert "swapped-columns" not in keys(tmp_path, [*turned, *good])
    columns = {"chosen": "rejected", "rejected": "chosen"}
    assert "swapped-columns" not in keys(tmp_path, [*bad, *good], columns)


def test_columns_named_the_wrong_way_round(tmp_path):
    rows = [{"q": f"{n}?", "good": f"yes {n}", "bad": f"no {n}"} for n in range(3)]
    right = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert not keys(tmp_path, rows, right)
    wrong = {"prompt": "q", "chosen": "bad", "rejected": "good"}
    seen = keys(tmp_path, rows, wrong)
    assert "chosen=bad,rejected=good" in seen["swapped-columns"].text


def ranked(number, responses, scores):
    return {"prompt": f"p{number}", "responses": responses, "scores": scores}


def test_ties_and_copies(tmp_path):
    rows = [
        ranked(1, ["a", "b", "c"], [1, 2, 3]),
        ranked(2, ["a", "b", "c"], [1, 1, 3]),
        ranked(3, ["a", "b", "c"], [2, 2, 2]),
        ranked(4, ["a", "a", "c"], [1, 2, 3]),
        ranked(5, ["a", "b", "c"], [1, None, 3]),
    ]
    seen = keys(tmp_path, rows)
    assert rows_of(seen["ties"]) == [2, 3] and "4 of their 6 pairs" in seen["ties"].text
    assert "In 1 rows all are: 1 at score 2." in seen["ties"].text
    assert rows_of(seen["all-tied"]) == [3]
    assert rows_of(seen["identical-responses"]) == [4]
    assert rows_of(seen["identical-scored-differently"]) == [4]
    assert seen["unjudged-responses"].severity == "note"


def test_a_plain_ranking(tmp_path):
    rows = [{"prompt": f"p{n}", "responses": ["a", "b"], "ranking": [2, 1]} for n in range(3)]
    assert not keys(tmp_path, rows)


def test_a_label_without_a_counterpart(tmp_path):
    rows = [
        {"prompt": "p", "completion": "x", "label": True},
        {"prompt": "p", "completion": "y", "label": False},
        {"prompt": "q", "completion": "y", "label": False},
    ]
    seen = keys(tmp_path, rows)
    assert rows_of(seen["unpaired-label"]) == [3]
    assert "1 prompt has answers with both labels" in seen["unpaired-label"].text


def test_unread_columns_are_named(tmp_path):
    rows = [{"q": "1?", "a": [{"t": "x", "s": 1}, {"t": "y", "s": 2}], "id": 7}] * 2
    columns = {"prompt": "q", "responses": "a.t", "scores": "a.s"}
    assert keys(tmp_path, rows, columns)["unused-columns"].text == "Training does not read: id."
