"""Numbers as they are printed: none is minus nothing, none is rounding, parts add up."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import redpencil
from redpencil.report.pairs import gather
from redpencil.report.wording import (
    fixed,
    model_name,
    nats,
    parts,
    percent,
    plain,
    points,
    short,
    signed,
    with_half,
)

SOURCE = Path(redpencil.__file__).parent


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-8, -1e-8, 4e-5, -4e-5])
def test_what_is_rounding_alone_is_zero(value):
    assert {plain(value), signed(value), nats(value), nats(value, sign=True)} == {"0"}
    assert fixed(value) in ("0.0000",) and fixed(value, 2, sign=True) == "0.00"
    assert percent(value / 100) == "0\u00a0%" and points(value, None) == "0.0"
    assert with_half(value, 0.2) == "0\u00a0±\u00a00.20"


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (0.3711, ("0.37", "+0.37", "0.371")),
        (-0.3711, ("−0.37", "−0.37", "−0.371")),
        (0.0004, ("4.0e−4", "+4.0e−4", "4.0e−4")),
        (12.0, ("12.00", "+12.00", "12")),
    ],
)
def test_what_is_more_stays(value, texts):
    assert (plain(value), signed(value), nats(value)) == texts


def test_small_numbers_that_are_no_differences_stay():
    assert short(2e-7) == "2.0e−7"  # a learning rate


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(0, 6), st.booleans())
def test_no_zero_has_a_sign(value, digits, sign):
    text = fixed(value, digits, sign=sign)
    assert not re.fullmatch(r"[+-]0(\.0*)?", text)
    assert float(text) == pytest.approx(value, abs=10.0**-digits)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
def test_parts_of_a_whole_add_up_to_100(counts):
    shares = parts(counts)
    assert sum(shares) == (100 if sum(counts) else 0)
    for share, count in zip(shares, counts, strict=True):
        assert abs(share - 100 * count / max(sum(counts), 1)) < 1


def test_rounding_alone_would_not_add_up():
    assert parts([23, 17]) == [58, 42]  # 57.5 and 42.5 round to 57 and 42


def test_numbers_that_may_be_negative_are_printed_by_one_helper():
    """A plus sign, or three and more decimals, in a format is a number that may be -0."""
    own = re.compile(r"\{[^{}]*:(?:\+[,.0-9]*[efg]|[,.0-9]*\.[34]f)\}")
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if own.search(line) and path.name != "wording.py"
    ]
    # A price is not negative.
    assert [f for f in found if "price" not in f] == []


def row(margin, chosen=-100.0, moved=0.0, **more):
    return {
        "split": "eval", "step": 0, "prompt": "p", "chosen": "a", "rejected": "b", "margin": margin,
        "logp_chosen": chosen + moved, "ref_logp_chosen": chosen, "logp_rejected": -80.0,
        "ref_logp_rejected": -80.0, "reward_chosen": margin, "reward_rejected": 0.0, **more,
    }  # fmt: skip


def test_a_margin_is_what_the_run_wrote():
    """It writes 0 for a tie. All else is an opinion: an objective whose rewards know no reference
    has one where no log-probability has moved, too."""
    tie, own = gather([row(0.0, moved=1e-5), row(0.3, moved=0.0)], None).before
    assert (tie.margin, tie.correct) == (0.0, 0.5)
    assert (own.margin, own.correct) == (0.3, 1.0)


def test_nothing_is_not_shown_as_a_number():
    assert {short(None), plain(None), signed(None), nats(None), short(math.nan)} == {"–"}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/model", "org/model"),
        ("gpt2", "gpt2"),
        ("/home/me/models/tiny", "tiny"),
        ("./tiny", "tiny"),
        ("runs/sft/model", "sft/model"),
        ("/a/runs/sft/model/", "sft/model"),
        ("C:\\models\\tiny", "tiny"),
        ("", ""),
    ],
)
def test_a_path_is_shown_by_its_name(model, name):
    assert model_name(model) == name
