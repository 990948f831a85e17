"""The numbers in sentences: what is there is said, what is not is not."""

from redpencil.doctor.summary import sentences

LENGTHS = {"median": 10, "p95": 1200, "max": 3000}


def test_sentences_of_text_and_tokens():
    share = {"share": 0.75, "interval": [0.7, 0.8], "rows": 1200}
    said = dict(
        sentences(
            {
                "prompt_characters": LENGTHS,
                "response_characters": LENGTHS,
                "chosen_is_longer": share,
                "length_accuracy": share | {"share": 0.5},
                "words_accuracy": share | {"sampled": True},
                "distinct_prompts": 5,
                "most_rows_of_a_prompt": 1,
                "tokens": {"padded_8_rows_together": 40, "packed": 30, "distinct": 20},
                "cut": {"512": {"too_long": 3, "no_room": 1}},
            }
        )
    )
    assert said == {
        "in characters": "median of prompt 10 (95 %: 1,200, longest 3,000); response 10 (95 %: "
        "1,200, longest 3,000)",
        "length": "the chosen response is the longer one in 75.0% (70.0% to 80.0%) of the pairs "
        "of 1,200 rows; length alone orders 50.0% (70.0% to 80.0%) right",
        "words": "a bag of words orders 75.0% (70.0% to 80.0%) of the pairs of 1,200 sampled rows "
        "right",
        "prompts": "5 different ones, each in at most 1 row",
        "tokens": "40 if every 8 rows are padded to their longest, 30 packed without padding, "
        "20 as trees, in which a prompt stands once",
        "--max-length 512": "3 rows are longer; in 1 of them a response alone leaves no room for a "
        "prompt",
    }


def test_several_rows_and_files_and_sources():
    said = dict(
        sentences(
            {
                "distinct_prompts": 5,
                "most_rows_of_a_prompt": 2,
                "files": {"a": 1, "b": 2},
                "sources": {"column": "source", "rows": {"web": 3}},
            }
        )
    )
    assert said == {
        "prompts": "5 different ones, each in at most 2 rows",
        "source": "web 3",
        "files": "a 1, b 2",
    }


def test_shares_of_a_handful_of_rows_are_not_said():
    share = {"share": 1.0, "interval": [0.2, 1.0], "rows": 1, "sampled": False}
    few = {"chosen_is_longer": share, "length_accuracy": share, "words_accuracy": share}
    assert list(sentences(few)) == []


def test_of_one_row_there_is_no_spread():
    alone = {"median": 9948, "p95": 9948, "max": 9948}
    one = {"prompt_characters": alone, "distinct_prompts": 1, "most_rows_of_a_prompt": 1}
    assert list(sentences(one)) == [("in characters", "prompt 9,948")]


def test_nothing_counted_says_nothing():
    assert list(sentences({"files": {"one": 3}, "cut": {}, "prompt_characters": {}})) == []
