"""What stands beside a progress bar, and what is said where none is drawn."""

import io
import re

import pytest
from rich.console import Console

from redpencil import console
from redpencil.engine.course import Course, Every


@pytest.fixture
def screen(monkeypatch):
    """Both streams on one terminal; returns what was written to it."""
    written = io.StringIO()
    for name in ("_out", "_err"):
        made = Console(
            file=written, force_terminal=True, soft_wrap=True, width=120, highlight=False
        )
        monkeypatch.setattr(console, name, made)
    return written


@pytest.fixture
def log(monkeypatch):
    """Both streams in files, as in a batch job; returns what was said on stdout."""
    written = io.StringIO()
    monkeypatch.setattr(console, "_out", Console(file=written, soft_wrap=True, width=200))
    monkeypatch.setattr(console, "_err", Console(file=io.StringIO(), soft_wrap=True, width=200))
    return written


@pytest.fixture
def verbosity():
    yield console.set_verbosity
    console.set_verbosity("normal")


def lines_on(screen):
    """Lines as a terminal shows them: what was erased is gone."""
    text = re.sub(
        r"\x1b\[[0-9;?]*[a-zA-Z]", lambda m: "\x00" if m[0].endswith("K") else "", screen.getvalue()
    )
    return [line.rpartition("\x00")[2].rpartition("\r")[2].rstrip() for line in text.split("\n")]


def test_a_sentence_beside_a_bar_has_a_line_of_its_own(screen):
    with console.progress_bar() as bar:
        row = bar.add_task("dpo step", total=10)
        for step in range(3):
            bar.update(row, completed=step)
            bar.refresh()
            console.say(f"step {step} evaluation: loss 0.6931")
    lines = lines_on(screen)
    for step in range(3):
        assert f"step {step} evaluation: loss 0.6931" in lines
    assert any("dpo step" in line for line in lines)


def test_sentences_stay_on_stdout_where_it_is_no_terminal(screen, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(console, "_out", Console(file=file, soft_wrap=True))
    with console.progress_bar():
        console.say("step 1 evaluation")
    assert file.getvalue() == "step 1 evaluation\n"


def steps_through(total=6, log_every=2, hooks=()):
    with Course("dpo step", hooks, 0, total, log_every) as course:
        for step in range(1, total + 1):
            course.stepped(step, {"loss": float(step), "grad_norm": 1.5}, 2.0)


def test_a_log_has_a_line_every_so_many_steps_with_their_mean(log):
    steps_through(total=5)
    lines = log.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["2/5", "4/5", "5/5"]
    assert "loss 1.5  0:00:06 left" in lines[0]
    assert "loss 3.5" in lines[1] and "loss 5 " in lines[2]
    assert "grad_norm" not in log.getvalue()


def test_a_terminal_has_its_bar_instead(screen):
    steps_through()
    assert not any("2/6  loss" in line for line in lines_on(screen))


def test_verbose_says_lines_beside_the_bar_and_more_of_each(screen, verbosity):
    verbosity("verbose")
    steps_through()
    assert any("2/6  loss 1.5  grad_norm 1.5" in line for line in lines_on(screen))


def test_quiet_says_results_only(log, verbosity):
    verbosity("quiet")
    steps_through()
    console.say("model     runs/x")
    console.say("report    runs/x/report.html", result=True)
    assert log.getvalue() == "report    runs/x/report.html\n"


def test_the_time_left_counts_what_is_called_between_steps(log):
    """Ten steps of two seconds; an evaluation of 30 s after every fourth and the last."""
    hook = Every(4, lambda state: state, 30.0)
    with Course("step", (hook,), 0, 10, 100) as course:
        course.stepped(1, {"loss": 1.0}, 9.0)
        assert course.left(1) == 9 * 9 + 3 * 30  # the first step is all there is
        course.stepped(2, {"loss": 1.0}, 2.0)
        course.stepped(3, {"loss": 1.0}, 2.0)
        assert course.left(3) == 7 * 2 + 3 * 30  # and it warmed up
        assert course.left(4) == 6 * 2 + 3 * 30  # that of step 4 is still to come
        assert course.left(5) == 5 * 2 + 2 * 30
        assert course.left(10) == 30


@pytest.mark.parametrize("every", [1, 3, 4, 10, 50])
@pytest.mark.parametrize("step", range(11))
def test_how_often_a_hook_is_due_from_here_on(every, step):
    hook = Every(every, lambda state: state)
    assert hook.times(step, 10) == sum(hook.due(s, 10) for s in range(step + 1, 11))
