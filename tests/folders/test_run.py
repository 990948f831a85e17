"""What a run folder says of how it was made."""

import shlex

import pytest

import redpencil.cli.main as command_line
from redpencil.folders.run import environment


@pytest.mark.parametrize("program", ["/usr/bin/redpencil", "redpencil.exe", command_line.__file__])
def test_the_command_that_began_a_run_can_be_pasted(monkeypatch, program):
    arguments = ["dpo", "--data", "my pairs.jsonl", "--columns", "chosen=a b"]
    monkeypatch.setattr("sys.argv", [program, *arguments])
    assert shlex.split(str(environment()["command"])) == ["redpencil", *arguments]


@pytest.mark.parametrize("program", ["train.py", "", "-c", "/usr/bin/ipython"])
def test_another_program_began_it_by_no_command_of_ours(monkeypatch, program):
    monkeypatch.setattr("sys.argv", [program, "--data", "x"])
    assert "command" not in environment()
