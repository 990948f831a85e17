"""Wrong input, in a table: each gives one clear sentence on stderr and exit code 2, no traceback,
and nothing is written over."""

import gzip
import json
import shutil

import pytest

from redpencil.cli.main import main

GOOD = {"prompt": "The plot", "chosen": " was superb.", "rejected": " was dull."}


def lines(*rows):
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)


def good(n=8):
    return [
        {**GOOD, "prompt": f"{GOOD['prompt']} {word}"}
        for word in ["a", "I", "we", "he", "it", "so", "as", "by"]
    ][:n]


FILES = {
    # name: (file name, content, words that the message must hold)
    "bad JSON": ("p.jsonl", lines(GOOD, '{"prompt": '), ["p.jsonl", "row 2", "JSON"]),
    "not an object": ("p.jsonl", lines(GOOD, "[1, 2]"), ["p.jsonl", "row 2", "object"]),
    "missing column": (
        "p.jsonl",
        lines(*good(), {"prompt": "a", "choosen": "b", "rejected": "c"}),
        ["p.jsonl", "row 9", "chosen", "choosen"],
    ),
    "other names": (
        "p.jsonl",
        lines({"question": "a", "preferred": "b", "rejected": "c"}),
        ["row 1", "prompt", "question"],
    ),
    "wrong type": ("p.jsonl", lines(*good(), {**GOOD, "chosen": 5}), ["row 9", "chosen", "5"]),
    "null cell": ("p.jsonl", lines(*good(), {**GOOD, "rejected": None}), ["row 9", "rejected"]),
    "message without role": (
        "p.jsonl",
        lines({**GOOD, "chosen": [{"content": "x"}], "rejected": [{"role": "assistant", "content": "y"}]}),
        ["row 1", "chosen", "role"],
    ),
    "mixed shapes": (
        "p.jsonl",
        lines(*good(), {"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]}),
        ["row 9"],
    ),
    "scores of another number": (
        "p.jsonl",
        lines({"prompt": "a", "responses": ["b", "c"], "scores": [1, 2, 3]}),
        ["row 1", "scores", "2", "3"],
    ),
    "comparison out of range": (
        "p.jsonl",
        lines({"prompt": "a", "responses": ["b", "c"], "comparisons": [[0, 2]]}),
        ["row 1", "2"],
    ),
    "probability of 2": ("p.jsonl", lines({**GOOD, "probability": 2}), ["row 1", "probability"]),
    "negative weight": ("p.jsonl", lines({**GOOD, "weight": -1}), ["row 1", "weight"]),
    "nothing says what is better": (
        "p.jsonl",
        lines({"prompt": "a", "completion": "b"}),
        ["row 1", "SFT"],
    ),
    "empty file": ("p.jsonl", "", ["p.jsonl", "no rows"]),
    "all rows set aside": ("p.jsonl", lines({**GOOD, "rejected": GOOD["chosen"]}), ["identical"]),
    "ids beyond the vocabulary": (
        "p.jsonl",
        lines({"prompt_ids": [5], "chosen_ids": [6, 99999], "rejected_ids": [7]}),
        ["row 1", "99999"],
    ),
    "ragged CSV": ("p.csv", "prompt,chosen,rejected\na,b,c\na,b\n", ["p.csv", "row 2"]),
    "CSV with semicolons": ("p.csv", "prompt;chosen;rejected\na;b;c\n", ["p.csv", "';'", "commas"]),
    "CSV without a column": ("p.csv", "prompt,chosen,rejectd\na,b,c\n", ["rejected", "rejectd"]),
    "cut JSON": ("p.json", json.dumps(good())[:-9], ["p.json", "JSON"]),
    "not Parquet": ("p.parquet", "hello", ["p.parquet", "arquet"]),
    "not gzip": ("p.jsonl.gz", "hello", ["p.jsonl.gz", "gzip"]),
    "cut gzip": ("p.jsonl.gz", gzip.compress(lines(*good()).encode() * 50)[:-30], ["p.jsonl.gz"]),
    "not UTF-8": ("p.jsonl", b'{"prompt": "\xff\xfe"}\n', ["p.jsonl", "UTF-8"]),
    "unknown format": ("p.docx", "hello", ["p.docx", ".jsonl"]),
}  # fmt: skip


@pytest.fixture
def run(base, tmp_path, capsys):
    """Run a command, expect exit code 2, and return its one sentence."""

    def refuse(*command):
        code = main([str(part) for part in command])
        said = capsys.readouterr().err
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 2, said
        assert len(errors) == 1, said
        assert "Traceback" not in said
        return errors[0]

    return refuse


def dpo(base, data, out, *more):
    return "dpo", "--model", base, "--data", data, "--out", out, *more


@pytest.mark.parametrize("kind", FILES)
def test_wrong_data(kind, run, base, tmp_path):
    name, content, words = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = run(*dpo(base, path, tmp_path / "out"))
    for word in words:
        assert word in message, message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(*good()))
    return path


COMMANDS = {
    # name: (arguments after `redpencil`, words that the message must hold)
    "no such command": ("dop", ["dop", "dpo"]),
    "a misspelled command": ("chekc DATA", ['did you mean "check"?']),
    "a command like no other": ("xyzzy DATA", ["xyzzy", "known are", "check"]),
    "a misspelled choice": ("note OUT --kind borken", ["--kind", 'did you mean "broken"?']),
    "no such file": ("dpo --model BASE --data TMP/pears.jsonl --out OUT", ["pears.jsonl", "pairs.jsonl"]),
    "an empty folder of data": ("dpo --model BASE --data TMP/empty --out OUT", ["empty"]),
    "no such model": ("dpo --model TMP/nowhere --data DATA --out OUT", ["nowhere"]),
    "a model that is a file": ("dpo --model DATA --data DATA --out OUT", ["is a file"]),
    "a folder without a model": ("dpo --model TMP/empty --data DATA --out OUT", ["empty", "config.json"]),
    "an option twice": ("dpo --model BASE --data DATA --out OUT --seed 1 --seed=2", ["--seed", "twice"]),
    "on and off": ("dpo --model BASE --data DATA --out OUT --cache --no-cache", ["--cache", "--no-cache"]),
    "twice with underscores": ("sft --model BASE --data DATA --out OUT --batch-size 1 --batch_size 2", ["--batch-size", "twice"]),
    "a model twice": ("plan --model BASE --model BASE --data DATA", ["--model", "twice"]),
    "an option of eval twice": ("eval BASE --data DATA --beta 1 --beta 2", ["--beta", "twice"]),
    "an option of check twice": ("check DATA --fix TMP/a.jsonl --fix TMP/b.jsonl", ["--fix", "twice"]),
    "a column twice": ("check DATA --columns prompt=a,prompt=b", ["prompt", "twice"]),
    "a file twice": ("dpo --model BASE --data DATA DATA --out OUT", ["pairs.jsonl", "twice"]),
    "an override twice": ("run TMP/r.yaml seed=1 seed=2", ["seed", "twice"]),
    "a key of a recipe twice": ("run TMP/twice.yaml", ["twice.yaml", "seed", "line 3"]),
    "missing option": ("dpo --model BASE --data DATA", ["--out"]),
    "misspelled option": ("dpo --model BASE --data DATA --out OUT --bta 0.1", ["--bta", "--beta"]),
    "misspelled loss": ("dpo --model BASE --data DATA --out OUT --loss dop", ["dop", "dpo"]),
    "a word for a number": ("dpo --model BASE --data DATA --out OUT --beta high", ["--beta", "high"]),
    "out of range": ("dpo --model BASE --data DATA --out OUT --batch-size 0", ["--batch-size"]),
    "an option that does nothing": (
        "dpo --model BASE --data DATA --out OUT --loss hinge --label-smoothing 0.1",
        ["--label-smoothing does nothing", "hinge"],
    ),
    "weight decay with RMSprop": (
        "dpo --model BASE --data DATA --out OUT --optimizer rmsprop --weight-decay 0.1",
        ["--weight-decay", "adamw"],
    ),
    "columns without =": ("dpo --model BASE --data DATA --out OUT --columns chosen", ["--columns"]),
    "unknown column of ours": (
        "dpo --model BASE --data DATA --out OUT --columns chosn=good",
        ["chosn", "chosen"],
    ),
    "unknown column of theirs": (
        "dpo --model BASE --data DATA --out OUT --columns chosen=chozen",
        ["chozen"],
    ),
    "no such template": (
        "dpo --model BASE --data DATA --out OUT --chat-template TMP/none.jinja",
        ["none.jinja"],
    ),
    "a template that is none": (
        "dpo --model BASE --data DATA --out OUT --chat-template DATA",
        ["is no chat template", "jinja file"],
    ),
    "too short a length": (
        "dpo --model BASE --data DATA --out OUT --max-length 2",
        ["too long"],
    ),
    "no such reference": (
        "dpo --model BASE --data DATA --out OUT --reference TMP/gone",
        ["gone"],
    ),
    "out is a file": ("dpo --model BASE --data DATA --out DATA", ["is a file"]),
    "out is not a run": ("dpo --model BASE --data DATA --out TMP/full", ["not a run", "nothing"]),
    "report of no run": ("report TMP/empty", ["empty"]),
    "report of nothing": ("report TMP/nowhere", ["nowhere"]),
    "eval of a model without data": ("eval BASE", ["--data"]),
    "generate without a prompt": ("generate BASE", ["--prompt"]),
    "generate over a file": ("generate BASE --prompt x --out DATA", ["exists already"]),
    "a negative temperature": ("generate BASE --prompt x --temperature -1", ["--temperature"]),
    "a reference that is a file": (
        "dpo --model BASE --data DATA --out OUT --reference DATA",
        ["is a file"],
    ),
    "export of no run": ("export TMP/empty OUT", ["not a run"]),
    "chat with nothing": ("chat TMP/nowhere", ["nowhere"]),
    "no such recipe": ("run TMP/recipe.yaml", ["recipe.yaml", "does not exist"]),
    "an override without =": ("run TMP/recipe.yaml beta", ["key=value"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", COMMANDS)
def test_wrong_command(kind, run, base, data, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    twice = "out: x\nseed: 1\nseed: 2\nstages:\n- stage: dpo\n"
    (tmp_path / "twice.yaml").write_text(twice)
    before = data.read_text()
    command, words = COMMANDS[kind]
    places = {
        "BASE": str(base),
        "DATA": str(data),
        "OUT": str(tmp_path / "out"),
        "TMP": str(tmp_path),
    }
    for name, place in places.items():
        command = command.replace(name, place)
    message = run(*command.split())
    for word in words:
        assert word in message, message
    assert data.read_text() == before
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def damaged(base, tmp_path, name, content):
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"{", ["config.json", "JSON"]),
        ("config.json", b'{"model_type": "llamma"}', ["llamma"]),
        ("config.json", b'{"model_type": "bert"}', ["not a causal language model"]),
        ("model.safetensors", b"not weights", ["weights"]),
        ("tokenizer.json", b"{}", ["tokenizer"]),
    ],
)
def test_a_damaged_model(run, base, data, tmp_path, name, content, words):
    folder = damaged(base, tmp_path, name, content)
    message = run(*dpo(folder, data, tmp_path / "out"))
    for word in words:
        assert word in message, message


def test_a_model_of_pickles(run, base, data, tmp_path):
    folder = damaged(base, tmp_path, "pytorch_model.bin", b"x")
    (folder / "model.safetensors").unlink()
    assert "pickle" in run(*dpo(folder, data, tmp_path / "out"))


def test_columns_that_the_loss_would_ignore(run, base, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(*good(), {**GOOD, "probability": 0.8}))
    message = run(*dpo(base, path, tmp_path / "out", "--loss", "hinge"))
    assert "row 9" in message
    assert "probability" in message


def test_a_damaged_run_folder(run, base, data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "recipe.yaml").write_text(": [")
    assert "recipe.yaml" in run(*dpo(base, data, out))
    assert "recipe.yaml" in run("eval", out)
