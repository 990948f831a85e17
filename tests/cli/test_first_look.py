"""What is not there is noticed before the libraries that train are loaded."""

import subprocess
import sys

import pytest

LOOK = """
import sys
from redpencil.cli.main import main
code = main(sys.argv[1:])
slow = {"torch", "transformers", "datasets"} & set(sys.modules)
print(code, sorted(slow))
"""


TRAIN = "--model {here}/model --data {here}/pairs.jsonl --out {here}/out"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            f"dpo {TRAIN} --eval-data {{here}}/pairs.json",
            'no such file; did you mean "pairs.jsonl"',
        ),
        (f"dpo {TRAIN}".replace("/model", "/modle"), "there is no model folder {here}/modle"),
        (f"sft {TRAIN}".replace("{here}/model", "./nowhere"), "there is no model folder ./nowhere"),
        (f"reward {TRAIN}".replace("/out", ""), "{here} is not empty and not a run of redpencil"),
        (f"rl {TRAIN}".replace("pairs.jsonl", "*.csv"), "no file matches this pattern"),
        (f"dpo {TRAIN} --reference ./nowhere", "there is no model folder ./nowhere"),
        ("plan --model {here}/model --data {here}/nope.jsonl", "nope.jsonl: no such file"),
        ("eval {here}/model --data {here}/nope.jsonl", "nope.jsonl: no such file"),
        ("generate {here}/nope/model --prompt a", "there is no model folder"),
        ("judge a b --data {here}/nope.jsonl --out x", "no such file"),
        ("chat /nowhere/model", "there is no model folder /nowhere/model"),
        ("dpo --output_dir x", "here it is --out"),
        ("sft --model {here}/model", "--data is missing"),
    ],
)
def test_it_is_said_at_once(tmp_path, command, said):
    (tmp_path / "model").mkdir()
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *command.format(here=tmp_path).split()],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split(None, 1) == ["2", "[]\n"], done.stderr
    assert said.format(here=tmp_path) in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
