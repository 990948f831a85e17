"""Counts by hand: marks of style, prompts, sources, tokens, prompts shared with the evaluation."""

import json
import random

import numpy as np
import pytest

from redpencil.data.assemble import Encoded
from redpencil.data.reading import Source
from redpencil.data.tree import lay_tree
from redpencil.doctor.checks import Subject
from redpencil.doctor.examine import examine
from redpencil.doctor.numbers.balance import Prompts, Sources
from redpencil.doctor.numbers.budget import TokenLengths, TokenSavings, distinct_tokens
from redpencil.doctor.numbers.marks import MARKS, Marks
from redpencil.doctor.numbers.overlap import PromptOverlap
from redpencil.doctor.view import View, hash_of
from redpencil.types import Comparison, Example, Origin, Response


def view_of(number, prompt="p", chosen="good", rejected="bad"):
    return View(Origin("f", number), prompt, (chosen, rejected), ((0, 1),), hash_of(prompt), True)


@pytest.mark.parametrize(
    ("mark", "having", "lacking"),
    [
        ("list", "Try:\n- this\n- that", "Try this - and that"),
        ("list", "1. first\n2. second", "1.5 litres"),
        ("bold", "a **bold** word", "2 ** 3 and 4 ** 5"[:6]),
        ("heading", "# Title", "#hashtag"),
        ("code", "```\nx\n```", "`x`"),
        ("refusal", "I’m sorry, but no.", "Sorry to hear that."),
        ("refusal", "죄송하지만 알 수 없습니다.", "알겠습니다."),
        ("question", "Would you? ", "Would you."),
        ("question", 'Did he say "why?"', "why? because."),
        ("exclamation", "Great!", "Great."),
        ("unfinished", "and then he", "and then he left."),
        ("leading-space", " Yes", "Yes"),
        ("line-break", "a\nb", "a b\n"),
    ],
)
def test_marks(mark, having, lacking):
    has = MARKS[mark][1]
    assert has(having)
    assert not has(lacking)


def test_a_mark_on_one_side_is_told_and_one_on_both_sides_is_not():
    marks = Marks()
    for number in range(200):
        bold = "**so**" if number % 2 else "so"
        fair = ("good!", "bad.") if number % 4 < 2 else ("good.", "bad!")
        marks.see(view_of(number, chosen=f"{bold} {fair[0]}", rejected=fair[1]))
    (found,) = marks.findings(200)
    assert found.key == "shortcut-bold"
    assert (found.count, found.of) == (100, 200)
    assert "100.0%" in found.text
    assert [o.row for o in found.rows[:3]] == [1, 3, 5]
    assert marks.statistics()["marks"]["exclamation"] == {
        "chosen": 100.0,
        "rejected": 100.0,
        "rows": 200,
    }


def test_a_prompt_that_dominates():
    prompts = Prompts()
    for number in range(100):
        prompts.see(view_of(number, prompt="again" if number < 30 else f"p{number}"))
    (found,) = prompts.findings(100)
    assert (found.count, found.of) == (30, 100)
    assert "71 different prompts" in found.text
    assert prompts.statistics() == {"distinct_prompts": 71, "most_rows_of_a_prompt": 30}


def test_one_prompt_in_all_rows_cannot_be_split():
    prompts = Prompts()
    for number in range(3):
        prompts.see(view_of(number))
    (found,) = prompts.findings(3)
    assert (found.key, found.severity, found.count) == ("single-prompt", "warning", 3)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_sources_are_counted_by_their_column(tmp_path):
    rows = [
        {
            "prompt": f"p{n}",
            "chosen": "a",
            "rejected": "b",
            "source": "web" if n < 95 else "books",
        }
        for n in range(100)
    ]
    source = Source(str(write(tmp_path / "d.jsonl", rows)))
    check = Sources()
    for read in source.rows():
        check.see_row(read)
    assert check.statistics()["sources"] == {"column": "source", "rows": {"web": 95, "books": 5}}
    (found,) = check.findings(100)
    assert (found.count, found.of) == (95, 100)
    assert "books 5" in found.text


def example(prompt, *responses, key="0" * 32):
    made = tuple(
        Response(
            ids=np.array(r, dtype=np.int32), scored=np.ones(len(r), bool), origin=Origin("f", 1)
        )
        for r in responses
    )
    return Example(
        prompt_ids=np.array(prompt, dtype=np.int32),
        responses=made,
        comparisons=(Comparison(chosen=0, rejected=1),) if len(made) > 1 else (),
        prompt_key=key,
    )


def encoded(prompt, *responses):
    def ids(values):
        return np.array(values, dtype=np.int32), np.ones(len(values), dtype=bool)

    return Encoded(ids(prompt)[0], 0, tuple(map(ids, responses)))


def test_tokens_by_hand():
    """Prompt of 3; responses of 4 and 2, which share 1: 3 + 4 + 1 distinct. The second row has the
    same prompt, and a response that begins with the other."""
    savings = TokenSavings()
    savings.see_example(example([1, 2, 3], [5, 6, 7, 8], [5, 9]))
    savings.see_example(example([1, 2, 3], [4], [4, 4]))
    assert savings.statistics()["tokens"] == {
        "padded_8_rows_together": 4 * 7,  # four sequences as long as the longest, 3 + 4
        "packed": 7 + 5 + 4 + 5,
        "distinct_in_each_row": 8 + 5,
        "distinct": 8 + 2,
    }


def test_distinct_tokens_are_those_of_the_tree():
    rng = np.random.default_rng(0)
    for _ in range(50):
        responses = [rng.integers(0, 3, size=rng.integers(1, 8)) for _ in range(5)]
        tree = lay_tree(example([9], *responses), feed_last=True)
        assert distinct_tokens([r.astype(np.int32) for r in responses]) == tree.tokens - 1


def test_what_a_limit_would_cut():
    lengths = TokenLengths(limit=10, longest=2048)
    lengths.see_whole(encoded([1] * 4, [2] * 6, [3]))  # 10: fits
    lengths.see_whole(encoded([1] * 5, [2] * 6, [3]))  # 11: loses the beginning of its prompt
    lengths.see_whole(encoded([1] * 2, [2] * 1000, [3]))  # no room for a prompt
    said = lengths.statistics()
    assert said["cut"] == {
        "10": {"too_long": 2, "no_room": 1},
        "512": {"too_long": 1, "no_room": 1},
    }
    assert said["max_length"] == 10


@pytest.mark.parametrize(
    ("limit", "longest", "said"),
    [
        (10, 5000, "--max-length 902 would keep 99.0% of the rows whole; memory"),
        (10, 99, "takes 99 tokens at most: --max-length 99 would keep 98.0% of the rows whole."),
        (99, 99, "takes 99 tokens at most. Shorten"),
        (990, 1100, "--max-length 1000 would keep 100.0%"),
    ],
)
def test_no_length_is_advised_that_the_model_does_not_take(limit, longest, said):
    lengths = TokenLengths(limit=limit, longest=longest)
    for size in [5] * 98 + [900, 998]:
        lengths.see_whole(encoded([1] * 2, [2] * size, [3]))
    assert said in lengths.advice()
    assert all(int(cut) <= longest for cut in lengths.statistics()["cut"])


def text(rng):
    return " ".join("".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(20))


def test_prompts_of_the_evaluation_are_found_equal_and_nearly_so():
    rng = random.Random(0)
    held_out = [text(rng) for _ in range(400)]
    overlap = PromptOverlap((Origin("e", n), p) for n, p in enumerate(held_out))
    train = [text(rng) for _ in range(400)]
    train[3] = held_out[30]
    train[5] = held_out[31].upper() + " ?"
    changed = held_out[32].split()
    changed[10] = "changed"
    train[7] = " ".join(changed)
    changed[:10] = text(rng).split()[:10]
    train[9] = " ".join(changed)  # half of it is another prompt's
    for number, prompt in enumerate(train):
        overlap.see(view_of(number, prompt=prompt))
    same, nearly = overlap.findings(400)
    assert (same.key, same.count, [o.row for o in same.rows]) == ("prompt-in-evaluation", 1, [3])
    assert (nearly.count, [o.row for o in nearly.rows]) == (2, [5, 7])
    assert overlap.statistics() == {"prompts_in_evaluation": 1, "prompts_nearly_in_evaluation": 2}


def test_the_whole_examination_has_the_statistics(tmp_path):
    rng = random.Random(1)
    rows = [{"prompt": text(rng), "chosen": text(rng), "rejected": text(rng)} for _ in range(50)]
    data = write(tmp_path / "d.jsonl", rows)
    held_out = write(tmp_path / "e.jsonl", rows[:2])
    found = examine(Subject(source=Source(str(data)), evaluation=Source(str(held_out))))
    assert "prompt-in-evaluation" in {f.key for f in found.findings}
    assert found.statistics["distinct_prompts"] == 50
    assert found.statistics["prompt_characters"] == {"median": 139, "p95": 139, "max": 139}
    json.dumps(found.as_json())
