"""Row shapes become records; unusable rows are set aside, malformed ones named."""

from collections import Counter

import numpy as np
import pytest

from redpencil.data.records import load_records, records_from_rows
from redpencil.errors import DataError


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def one(row, purpose="preference"):
    read = records_from_rows([row], purpose)
    assert (read.rows_read, len(read.records), read.dropped) == (1, 1, [])
    return read.records[0]


def pairs(record):
    return [(c.chosen, c.rejected) for c in record.comparisons]


def reason(row, purpose="preference"):
    read = records_from_rows([row], purpose)
    assert not read.records and len(read.dropped) == 1
    return read.dropped[0].reason


def refused(row, purpose="preference"):
    with pytest.raises(DataError) as caught:
        records_from_rows(row if isinstance(row, list) else [row], purpose)
    return str(caught.value)


PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
HH = {
    "chosen": "\n\nHuman: hi \n\nAssistant: a\n\nHuman: b\n\nAssistant:  c ",
    "rejected": "\n\nHuman: hi \n\nAssistant: a\n\nHuman: b\n\nAssistant: d",
}


def test_strings():
    read = records_from_rows([PAIR], "preference")
    assert read.shape == "prompt / chosen / rejected (strings)"
    record = read.records[0]
    assert (record.prompt, record.responses, pairs(record)) == ("p", ("c", "r"), [(0, 1)])
    assert read.origins == [(record.origin,)]


@pytest.mark.parametrize(
    ("chosen", "prompt"),
    [
        ([bot("c")], "p"),
        (bot("c"), [user("p")]),
        ([user("p"), bot("c")], "p"),
        ([user("p"), bot("c")], [user("p")]),
        ("c", [user("p")]),
    ],
)
def test_text_and_messages_mix_within_a_row(chosen, prompt):
    rejected = [user("p"), bot("r")] if isinstance(chosen, list) and len(chosen) == 2 else "r"
    record = one({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    assert record.prompt == (user("p"),)
    assert record.responses == ((bot("c"),), (bot("r"),))


def test_conversations_may_have_a_system_turn_that_the_prompt_has_not():
    system = {"role": "system", "content": "s"}
    sides = {"chosen": [system, user("p"), bot("c")], "rejected": [system, user("p"), bot("r")]}
    assert one({"prompt": "p", **sides}).prompt == (system, user("p"))
    assert reason({"prompt": "other", **sides}) == "different prompts on the two sides"


def test_implicit_prompt_of_message_lists():
    shared = [user("p"), bot("a"), user("q")]
    record = one({"chosen": [*shared, bot("c")], "rejected": [*shared, bot("r"), user("t")]})
    assert record.prompt == tuple(shared)
    assert record.responses == ((bot("c"),), (bot("r"),))
    shorter = one({"chosen": [user("p"), bot("a")], "rejected": [*shared, bot("r")]})
    assert shorter.prompt == (user("p"),)
    assert shorter.responses == ((bot("a"),), (bot("a"), user("q"), bot("r")))
    apart = {"chosen": [user("p"), bot("c")], "rejected": [user("q"), bot("c")]}
    assert reason(apart) == "different prompts on the two sides"


def test_implicit_prompt_of_text_is_cut_at_a_break_and_said():
    read = records_from_rows(
        [{"chosen": "Q: one two\nAlpha", "rejected": "Q: one two\nAll"}], "sft"
    )
    assert (read.records[0].prompt, read.records[0].responses) == ("Q: one two\n", ("Alpha",))
    assert "last space or line break" in read.notes[0]
    record = one({"chosen": "the film was great", "rejected": "the film was grim"})
    assert (record.prompt, record.responses) == ("the film was", (" great", " grim"))
    assert reason({"chosen": "one", "rejected": "two"}) == "different prompts on the two sides"


def test_transcripts_to_the_letter():
    record = one(HH)
    assert record.prompt == (user("hi "), bot("a"), user("b"))
    assert record.responses == ((bot(" c "),), (bot("d"),))


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ("\n\nHuman: hi\n\nAssistant:", "empty response"),
        ("\n\nHuman: ho\n\nAssistant: a", "different prompts on the two sides"),
        ("\n\nHuman: hi\n\nAssistant: a\n\nAssistant: b", "different prompts on the two sides"),
        ("\n\nHuman: hi\n\nAssistant: x", "identical pair"),
        ("\n\nHuman: hi\n\nAssistant: a\n\nHuman: b", "transcript does not end"),
    ],
)
def test_unusable_transcripts(chosen, wanted):
    row = {"chosen": chosen, "rejected": "\n\nHuman: hi\n\nAssistant: x"}
    assert reason(row).startswith(wanted)


def test_repeated_roles_in_a_shared_prompt_survive():
    shared = "\n\nHuman: a\n\nHuman: b\n\nAssistant:\n\nHuman: c\n\nAssistant: "
    read = records_from_rows([{"chosen": shared + "x", "rejected": shared + "y"}], "preference")
    assert read.records[0].prompt == (user("a"), user("b"), bot(""), user("c"))
    assert "no space" in read.notes[0]


def test_explicit_transcript_prompt():
    row = {"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " x", "rejected": " y"}
    record = one(row)
    assert (record.prompt, record.responses) == ((user("a"),), ((bot("x"),), (bot("y"),)))


def test_sharegpt():
    call = '{"name": "f", "arguments": {"x": 1}}'
    turns = [("system", "s"), ("human", "h"), ("function_call", call), ("observation", "o")]
    row = {
        "conversations": [{"from": f, "value": v} for f, v in turns],
        "chosen": {"from": "gpt", "value": "c"},
        "rejected": {"from": "gpt", "value": "r"},
        "tools": '[{"name": "f"}]',
    }
    record = one(row)
    assert [t["role"] for t in record.prompt] == ["system", "user", "assistant", "tool"]
    assert record.prompt[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert record.responses == ((bot("c"),), (bot("r"),))
    assert record.tools == ({"name": "f"},)
    row["chosen"] = {"from": "humna", "value": "c"}
    assert 'column "chosen": unknown role \'humna\'; did you mean "human"?' in refused(row)


@pytest.mark.parametrize(
    ("judged", "wanted"),
    [
        ({"scores": [1, 3, 1]}, {(1, 0), (1, 2)}),
        ({"scores": [True, False, None]}, {(0, 1)}),
        ({"scores": [1.0, 2.0, float("nan")]}, {(1, 0)}),
        ({"ranking": [2, 1, 2]}, {(1, 0), (1, 2)}),
        ({"comparisons": [[2, 0], {"chosen": 0, "rejected": 1}]}, {(2, 0), (0, 1)}),
    ],
)
def test_ranked(judged, wanted):
    record = one({"prompt": "p", "responses": ["a", "b", "c"], **judged})
    assert set(pairs(record)) == wanted


def test_ranked_leaves_out_what_teaches_nothing_and_counts_it():
    row = {"prompt": "p", "responses": ["a", " ", "b", "a"], "scores": [1, 4, 3, 2]}
    read = records_from_rows([row], "preference")
    assert read.records[0].responses == ("a", "b", "a")
    assert set(pairs(read.records[0])) == {(1, 0), (1, 2)}
    assert len(read.notes) == 2
    assert reason({**row, "scores": [1, 1, 1, 1]}) == "all responses tied"
    assert reason({"prompt": "p", "responses": ["a", "a"], "scores": [1, 2]}) == (
        "identical responses"
    )
    assert reason({"prompt": "p", "responses": ["a", ""], "scores": [1, 2]}) == "empty response"


def test_strengths_reach_comparisons():
    c = one({**PAIR, "weight": 2, "margin": -0.5, "probability": 0.75}).comparisons[0]
    assert (c.weight, c.margin, c.probability) == (2.0, -0.5, 0.75)
    row = {
        "prompt": "p",
        "responses": ["a", "b"],
        "comparisons": [{"chosen": 1, "rejected": 0, "margin": 3}],
        "weight": 0.5,
    }
    c = one(row).comparisons[0]
    assert (c.chosen, c.weight, c.margin) == (1, 0.5, 3.0)


def test_labels_are_joined_by_prompt():
    said = [("p", "a", True), ("q", "b", True), ("p", "c", False), ("p", "d", 1), ("p", "", False)]
    rows = [{"prompt": p, "completion": c, "label": t} for p, c, t in said]
    read = records_from_rows(rows, "preference")
    assert [r.responses for r in read.records] == [("a", "c", "d")]
    assert set(pairs(read.records[0])) == {(0, 1), (2, 1)}
    assert [o.row for o in read.origins[0]] == [1, 3, 4]
    assert [(d.origin.row, d.reason) for d in read.dropped] == [
        (2, "unpaired label"),
        (5, "empty response"),
    ]
    sft = records_from_rows(rows, "sft")
    assert [r.responses for r in sft.records] == [("a",), ("b",), ("d",)]
    assert sft.dropped[0].reason == "label is false"


def test_sft():
    record = one({"prompt": "p", "completion": "c", "weight": 0.5}, "sft")
    assert (record.prompt, record.responses, record.weights) == ("p", ("c",), (0.5,))
    record = one({"messages": [user("a"), bot("b"), user("c"), bot("d")]}, "sft")
    assert record.prompt == (user("a"),)
    assert record.responses == ((bot("b"), user("c"), bot("d")),)
    read = records_from_rows([PAIR], "sft")
    assert read.records[0].responses == ("c",) and not read.records[0].comparisons
    assert "only the best" in read.shape
    ranked = {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 2, 2]}
    assert one(ranked, "sft").responses == ("b", "c")


def test_token_ids():
    record = one({"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": np.array([4, 5])})
    assert record.prompt.dtype == np.int32 and record.prompt.tolist() == [1, 2]
    assert [r.tolist() for r in record.responses] == [[3], [4, 5]]
    ranked = {"prompt_ids": [1], "responses_ids": [[1], [2]], "ranking": [2, 1]}
    assert pairs(one(ranked)) == [(1, 0)]
    assert one({"prompt_ids": [1], "completion_ids": [2]}, "sft").responses[0].tolist() == [2]
    assert reason({"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [4]}) == "empty response"
    assert reason({"prompt_ids": [1], "chosen_ids": [4], "rejected_ids": [4]}) == "identical pair"


def test_system_column():
    record = one({**PAIR, "system": "s"})
    assert record.prompt == ({"role": "system", "content": "s"}, user("p"))
    assert record.responses == ((bot("c"),), (bot("r"),))


SIDES = {"chosen": "one two", "rejected": "one three"}

MALFORMED = [
    ({"prompt": "p", "chosen": 3, "rejected": "r"}, 'row 1, column "chosen": wanted text'),
    ({"prompt": "p", "good": "c", "bad": "r"}, "did you mean --columns chosen=good,rejected=bad?"),
    ({"prompt": "p", "completion": "c"}, "data for SFT"),
    ({"x": 1}, "the columns are: x"),
    ([PAIR, {"prompt": "p", "chosen": "c"}], 'row 2: no column "rejected"'),
    (
        [PAIR, {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}],
        "row 2: rows of different shapes",
    ),
    ({**PAIR, "weight": -1}, 'column "weight": a weight is at least 0'),
    ({**PAIR, "margin": float("inf")}, 'column "margin": wanted a finite number'),
    ({**PAIR, "probability": 1.5}, 'column "probability": a probability is between'),
    ({**PAIR, "weight": "two"}, 'column "weight": wanted a number'),
    ({"prompt": "p", "responses": ["a", "b"], "scores": [1]}, "1 entries for 2 responses"),
    ({"prompt": "p", "responses": ["a", "b"], "scores": [1, "x"]}, "wanted a number"),
    ({"prompt": "p", "responses": ["a", "b"], "ranking": [0, 1]}, "1 for the best"),
    ({"prompt": "p", "responses": ["a", "b"], "comparisons": [[0, 2]]}, "not the index"),
    ({"prompt": "p", "responses": ["a", "b"], "comparisons": [[1, 1]]}, "compared with itself"),
    ({"prompt": "p", "responses": ["a", "b"]}, "without scores, ranking or comparisons"),
    ({"prompt": "p", "completion": "c", "label": "yes"}, "wanted true or false"),
    ({"prompt_ids": [1], "chosen_ids": ["a"], "rejected_ids": [1]}, "token ids are integers"),
    ({"prompt_ids": [1], "chosen_ids": [-1], "rejected_ids": [1]}, "token ids are integers"),
    ({**PAIR, "prompt": [{"role": "user"}]}, 'a message needs "content"'),
    ({**PAIR, "tools": "nonsense"}, 'column "tools"'),
    ({"chosen": "a", "rejected": [bot("b")]}, "both must be the same kind"),
]


@pytest.mark.parametrize(("row", "message"), MALFORMED, ids=lambda x: str(x)[:40])
def test_malformed_rows_are_named(row, message):
    assert message in refused(row)


def test_a_likely_name_is_suggested():
    # chosen and rejected alone are a shape of their own, but not next to what must be the prompt.
    assert "did you mean --columns prompt=query?" in refused({"query": "p", **SIDES})
    for name in ("question", "query"):
        assert one({name: "p", **HH}).prompt == one(HH).prompt
    assert 'no column "completion"' in refused({"question": "p", "x": "c"}, "sft")


def test_hh_rlhf_to_the_letter(shared_data):
    import gzip
    import json

    path = shared_data / "hh-rlhf-harmless" / "pairs.jsonl.gz"
    read = load_records(str(path), purpose="preference")
    aside = [(d.origin.row, d.reason) for d in read.dropped]
    different = "different prompts on the two sides"
    assert aside == [(n, "empty response") for n in (58, 617, 736)] + [
        (n, different) for n in (1126, 1302, 1358)
    ]
    assert len(read.records) == 1535 and read.rows_read == 1541
    names = {"user": "Human", "assistant": "Assistant"}
    with gzip.open(path) as stream:
        rows = [json.loads(line) for line in stream]
    for record in read.records:
        for response, side in zip(record.responses, ("chosen", "rejected"), strict=True):
            turns = record.prompt + response
            said = "".join(f"\n\n{names[t['role']]}: {t['content']}" for t in turns)
            assert said == rows[record.origin.row - 1][side], record.origin


def test_other_real_data(shared_data):
    def load(name, purpose="preference", **columns):
        read = load_records(str(shared_data / name), purpose=purpose, columns=columns)
        return len(read.records), dict(Counter(d.reason for d in read.dropped)), read

    assert load("llamafactory-demo/dpo_en_demo.json")[:2] == (300, {})
    kto = load("llamafactory-demo/kto_en_demo.json")
    assert kto[:2] == (1, {"unpaired label": 298})
    komt = load(
        "komt-korean-ranked/ranked.jsonl",
        prompt="instruction",
        responses="candidates.answer",
        scores="candidates.score",
    )
    assert komt[:2] == (24, {})
    evals = load(
        "anthropic-evals",
        prompt="question",
        chosen="answer_matching_behavior",
        rejected="answer_not_matching_behavior",
        probability="label_confidence",
    )
    assert evals[:2] == (2000, {})
    assert all(0.9 < r.comparisons[0].probability < 1 for r in evals[2].records)
    gsm = load(
        "gsm8k-solutions/solutions.jsonl", "sft", prompt="question", completion="ground_truth"
    )
    assert gsm[:2] == (879, {})
