"""`judge`: win rates by a reward and by a chat model, kept and gone on with."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from judge_server import judge_server
from redpencil.cli.main import main
from redpencil.world.reward import true_reward
from redpencil.world.tokenizer import world_tokenizer

REWARD = "redpencil.world.reward:rewards"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("redpencil.rollout.endpoint.BACKOFF", 0.001)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files of A's and B's answers to ten prompts; A's are longer on the first eight."""
    folder = tmp_path_factory.mktemp("written")
    prompts = [f"Question {i}?" for i in range(10)]
    for name, texts in (
        ("a", ["a long answer"] * 8 + ["short"] * 2),
        ("b", ["brief"] * 8 + ["a wordy answer", "short"]),
    ):
        rows = [{"prompt": p, "responses": [t]} for p, t in zip(prompts, texts, strict=True)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def command(written, out, *options):
    a, b = written / "a.jsonl", written / "b.jsonl"
    return ["judge", str(a), str(b), "--data", str(a), "--out", str(out), *options]


def longer(question):
    a, b = (question.split(f"[Answer {x}]\n")[1].split("\n[End")[0] for x in "AB")
    return f"Because of its length. [[{'A' if len(a) > len(b) else 'B'}]]"


def result_of(capsys, arguments):
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def by_url(server, *options):
    return ["--judge-url", server.url, "--judge-model", "m", *options]


def test_a_chat_model_judges(written, tmp_path, capsys):
    with judge_server(longer) as server:
        options = by_url(server, "--price", "1,10")
        result = result_of(capsys, command(written, tmp_path / "out", *options))
    assert (result["wins"], result["losses"], result["ties"]) == (8, 1, 1)
    assert result["win_rate"] == 0.85
    assert result["identical_answers"] == 1
    assert result["position"] == {
        "first": 0.5, "consistent": 1.0, "replies": 18, "unparsable": 0,
    }  # fmt: skip
    assert result["cost"] == {
        "requests": 18, "prompt_tokens": 1800, "completion_tokens": 180, "unreported": 0,
        "price": pytest.approx(1800 / 1e6 + 1800 / 1e6),
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    row = next(r for r in lines(tmp_path / "out" / "transcript.jsonl") if r["index"] == 8)
    assert (row["prompt"], row["a"], row["b"]) == ("Question 8?", "short", "a wordy answer")
    assert row["verdict"] == "b"
    assert row["replies"] == [
        longer("[Answer A]\nx\n[End[Answer B]\nxx\n[End"),
        "Because of its length. [[A]]",
    ]


def test_a_biased_judge_is_found_out(written, tmp_path, capsys):
    with judge_server(lambda question: "[[A]]") as server:
        assert main(command(written, tmp_path / "out", *by_url(server))) == 0
        shown = capsys.readouterr().out
        result = result_of(capsys, command(written, tmp_path / "out", *by_url(server)))
    assert result["win_rate"] == 0.5
    assert result["position"]["first"] == 1.0
    assert result["position"]["consistent"] == 0.0
    assert "100.0% of the votes are for the answer shown first" in shown


def test_a_judgement_goes_on_where_the_network_failed(written, tmp_path, capsys):
    out = tmp_path / "out"
    with judge_server(longer) as server:
        arguments = command(written, out, *by_url(server, "--parallel", "1"))
        server.answer = lambda q: longer(q) if len(server.requests) <= 8 else 1 / 0
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert "4 of 10 prompts are judged and kept in" in said
        assert "the same command goes on from there" in said
        assert not (out / "result.json").exists()
        with (out / "transcript.jsonl").open("a") as file:
            file.write('{"index": 9, "verd')  # as if killed while it wrote
        server.answer, before = longer, len(server.requests)
        result = result_of(capsys, arguments)
        assert len(server.requests) == before + 18 - 8
        assert result["wins"] == 8
        server.requests.clear()
        assert result_of(capsys, arguments) == result
        assert server.requests == []
        assert main(command(written, out, *by_url(server, "--judge-tokens", "9"))) == 2
        assert "--judge-tokens was 512 and is now 9" in capsys.readouterr().err
    assert sorted(r["index"] for r in lines(out / "transcript.jsonl")) == list(range(10))


def test_the_key_is_kept_nowhere(written, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-open-sesame")
    with judge_server(lambda question: "sk-open-sesame [[A]]") as server:
        assert main(command(written, tmp_path / "out", *by_url(server))) == 0
    assert server.headers[0]["Authorization"] == "Bearer sk-open-sesame"
    files = [p.read_text() for p in (tmp_path / "out").iterdir()]
    shown = capsys.readouterr()
    assert not any("sesame" in text for text in [*files, shown.out, shown.err])


def test_a_reward_judges_two_sources(base, pairs, tmp_path, capsys):
    arguments = ["judge", base, "data:responses", "--data", pairs, "--by", REWARD]
    arguments += ["--max-new-tokens", 8, "--limit", 20, "--out", tmp_path / "out"]
    result = result_of(capsys, arguments)
    rows = lines(tmp_path / "out" / "transcript.jsonl")
    first = [row["responses"][0] for row in lines(pairs)[:20]]
    assert [row["b"] for row in rows] == first
    a, b = ([true_reward(row["prompt"] + row[side]) for row in rows] for side in "ab")
    assert result["rewards"]["a"] == pytest.approx(sum(a) / 20)
    assert result["rewards"]["b"] == pytest.approx(sum(b) / 20)
    assert result["wins"] == sum(x > y for x, y in zip(a, b, strict=True))
    assert result["wins"] + result["losses"] + result["ties"] == 20


def test_the_verifier_judges_with_the_rows_answers(tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    rows = [
        {"prompt": f"{i} + 1?", "answer": f"#### {i + 1}", "right": f"{i + 1}", "wrong": "0"}
        for i in range(6)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["judge", "data:right", "data:wrong", "--data", data, "--by", "answer"]
    result = result_of(capsys, [*arguments, "--out", tmp_path / "out"])
    assert (result["wins"], result["win_rate"]) == (6, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data:x", "data:y", "--data", "A"], "--by (a reward) or --judge-url"),
        (["data:x", "A", "--data", "A", "--by", REWARD], "no column 'x'"),
        (["A", "A", "--by", REWARD], "no run that held out prompts"),
        (["A", "A", "--data", "A", "--by", REWARD, "--price", "1,2"], "--price does nothing"),
        (
            ["A", "A", "--data", "A", "--by", REWARD, "--temperature", "0"],
            "neither side is a model",
        ),
        (["A", "A", "--data", "A", "--judge-url", "x", "--judge-model", "m"], "--judge-url"),
        (["A", "A", "--data", "A", "--by", REWARD, "--out", "A"], "is a file"),
        (["A", "A", "--data", "A", "--by", REWARD, "--out", "FULL"], "not a judgement"),
    ],
)
def test_what_is_wrong_is_one_sentence(written, tmp_path, capsys, arguments, message):
    places = {"A": str(written / "a.jsonl"), "FULL": str(written)}
    given = [places.get(argument, argument) for argument in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "out")]
    assert main(["judge", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def served(base, tmp_path_factory):
    """`transformers serve` of a random model with a chat template: (url, name of the model)."""
    pytest.importorskip("fastapi", reason="transformers serve needs it")
    folder = tmp_path_factory.mktemp("judge")
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = world_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    server = subprocess.Popen(
        [*program, "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        server.terminate()
        server.wait(300)


def _wait_until_ready(address, server):
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=60):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not answer")


def test_a_real_server_of_a_random_model(written, served, tmp_path, capsys):
    """Its replies are word salad: none holds a verdict, all are counted as ties, and said so."""
    url, model = served
    arguments = command(written, tmp_path / "out", "--judge-url", url, "--judge-model", model)
    arguments += ["--judge-tokens", "4", "--limit", "3"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "6 of 6 replies held no verdict" in shown.err
    result = result_of(capsys, arguments)
    assert result["win_rate"] == 0.5
    assert result["position"]["unparsable"] == 6
    assert result["cost"]["requests"] == 6
    assert result["cost"]["completion_tokens"] == 6 * 4
    assert result["cost"]["prompt_tokens"] > 6 * 20
    assert result["cost"]["unreported"] == 0
    replies = [r for row in lines(tmp_path / "out" / "transcript.jsonl") for r in row["replies"]]
    assert all(replies)


def test_a_real_server_refuses_another_model(written, served, tmp_path, capsys):
    options = ["--judge-url", served[0], "--judge-model", "another"]
    assert main(command(written, tmp_path / "out", *options)) == 2
    assert "requested 'another'" in capsys.readouterr().err
