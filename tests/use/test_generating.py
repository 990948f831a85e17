"""`generate`: labelled pairs that dpo takes, by a reward and by a judge; iterative DPO by `run`."""

import json
from itertools import combinations

import pytest
import yaml

from judge_server import judge_server
from redpencil.cli.main import main
from redpencil.data.records import load_records
from redpencil.errors import RecipeError, RewardError
from redpencil.recipes.asking import GenerateRecipe
from redpencil.recipes.file import load_stages
from redpencil.use.generating import generate

REWARD = "redpencil.world.reward:rewards"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def prompts(pairs, tmp_path_factory):
    """Twelve prompts, the first of them twice."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": row["prompt"]} for row in lines(pairs)[:12]]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    return path


def recipe(base, prompts, out, **options):
    settings = {"num": 3, "max_new_tokens": 8, **options}
    return GenerateRecipe(model=str(base), data=str(prompts), out=str(out), **settings)


def test_pairs_by_the_sign_of_a_reward(base, prompts, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    generate(recipe(base, prompts, out, label=REWARD))
    rows = lines(out)
    assert len(rows) == 12
    for row in rows:
        rewards = row["rewards"]
        wanted = {
            (i, j) if rewards[i] > rewards[j] else (j, i)
            for i, j in combinations(range(3), 2)
            if rewards[i] != rewards[j]
        }
        assert set(map(tuple, row["comparisons"])) == wanted
    assert any(row["comparisons"] for row in rows)
    assert "1 rows repeat a prompt" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]
    read = load_records(str(out), purpose="preference")
    assert len(read.records) == sum(bool(row["comparisons"]) for row in rows)
    assert read.notes == []  # rewards, which are beside the comparisons, are not complained about


def test_bradley_terry_sometimes_prefers_the_lower_reward(base, prompts, tmp_path):
    def lower_wins(name, **options):
        out = tmp_path / name
        generate(recipe(base, prompts, out, label=REWARD, label_by="bradley-terry", **options))
        return [
            row["rewards"][winner] < row["rewards"][loser]
            for row in lines(out)
            for winner, loser in row["comparisons"]
        ]

    hot = lower_wins("hot.jsonl", label_temperature=1e6)  # a coin toss
    assert 0 < sum(hot) < len(hot)
    assert hot == lower_wins("again.jsonl", label_temperature=1e6)
    cold = lower_wins("cold.jsonl", label_temperature=1e-6)
    assert not any(cold)


def test_pairs_by_a_judge_go_on_after_a_fault(base, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("redpencil.rollout.endpoint.BACKOFF", 0.001)
    out = tmp_path / "pairs.jsonl"

    def longer(question):
        a, b = (question.split(f"[Answer {x}]\n")[1].split("\n[End")[0] for x in "AB")
        return "[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]"

    with judge_server(longer) as server:
        command = ["generate", str(base), "--data", str(prompts), "--num", "3", "--out", str(out)]
        command += ["--max-new-tokens", "8", "--judge-url", server.url, "--judge-model", "m"]
        command += ["--parallel", "1"]
        answered = 7 * 6  # seven prompts of three pairs in two orders
        server.answer = lambda q: longer(q) if len(server.requests) <= answered else 1 / 0
        assert main(command) == 2
        assert not out.exists()
        assert len(lines(tmp_path / "pairs.jsonl.partial")) == 1 + 7
        asked = len(server.requests)
        server.answer = longer
        monkeypatch.setattr("redpencil.use.generating._sampled", None)  # nothing is sampled again
        assert main([*command, "--num", "4"]) == 2
        assert main(command) == 0
        assert len(server.requests) == asked + 5 * 6
    for row in lines(out):
        lengths = [len(text) for text in row["responses"]]
        assert row["comparisons"]
        assert all(lengths[winner] > lengths[loser] for winner, loser in row["comparisons"])
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_reward_that_fails_does_not_lose_the_samples(base, prompts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "reward_that_fails.py"
    module.write_text("def f(prompts, responses, rows):\n    raise ValueError('too early')\n")
    out = tmp_path / "pairs.jsonl"
    with pytest.raises(RewardError, match=r"prompts.jsonl, row 1: .* raised ValueError"):
        generate(recipe(base, prompts, out, label="reward_that_fails:f"))
    sampled = lines(tmp_path / "pairs.jsonl.partial")[0]["responses"]
    monkeypatch.setattr(
        "reward_that_fails.f", lambda prompts, responses, rows: [float(len(r)) for r in responses]
    )
    generate(recipe(base, prompts, out, label="reward_that_fails:f"))
    assert [row["responses"] for row in lines(out)] == sampled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num", "1", "--label", REWARD], "--num must be at least 2"),
        (
            ["--num", "2", "--label", REWARD, "--judge-url", "http://x/v1"],
            "--judge-model is missing",
        ),
        (["--num", "2", "--label-by", "sign"], "--label-by does nothing without label"),
        (
            ["--num", "2", "--label", REWARD, "--label-temperature", "2"],
            "--label-temperature does nothing without --label-by",
        ),
        (["--judge-model", "m"], "--judge-model does nothing without --judge-url"),
        (["--num", "2", "--label", "nowhere:f"], "no Python module 'nowhere'"),
    ],
)
def test_wrong_options_are_one_sentence(base, prompts, tmp_path, capsys, options, message):
    out = tmp_path / "out.jsonl"
    command = ["generate", str(base), "--data", str(prompts), "--out", str(out), *options]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def rounds(base, prompts, out):
    stage = {"batch_size": 4, "learning_rate": 1e-3, "sample_prompts": 0, "eval_fraction": 0.2}
    return {
        "out": str(out),
        "model": str(base),
        "data": str(prompts),
        "stages": [
            {"stage": "generate", "num": 3, "max_new_tokens": 8, "label": REWARD},
            {"stage": "dpo", **stage},
            {"stage": "generate", "num": 3, "max_new_tokens": 8, "label": REWARD},
            {"stage": "dpo", **stage},
        ],
    }


def test_two_rounds_of_iterative_dpo(base, prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("REDPENCIL_CACHE", str(tmp_path / "cache"))
    file, out = tmp_path / "rounds.yaml", tmp_path / "runs"
    file.write_text(yaml.safe_dump(rounds(base, prompts, out)))
    first, dpo, second, again = load_stages(file, {})
    assert (first.model, dpo.model) == (str(base), str(base))
    assert (second.model, again.model) == (str(out / "2-dpo" / "model"),) * 2
    assert dpo.data == str(out / "1-generate" / "pairs.jsonl")
    assert again.data == str(out / "3-generate" / "pairs.jsonl")
    assert main(["run", str(file)]) == 0
    one, two = (lines(out / f"{n}-generate" / "pairs.jsonl") for n in (1, 3))
    assert [row["prompt"] for row in one] == [row["prompt"] for row in two]
    assert [row["responses"] for row in one] != [row["responses"] for row in two]
    assert (out / "4-dpo" / "model" / "config.json").is_file()
    written = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert main(["run", str(file)]) == 0
    assert capsys.readouterr().out.count("is finished; nothing to do") == 4
    assert written == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert main(["run", str(file), "generate.num=4"]) == 2
    assert "--num was 3 and is now 4" in capsys.readouterr().err


def test_a_stage_s_own_data_win(base, prompts, tmp_path):
    content = rounds(base, prompts, tmp_path)
    content["stages"][1]["data"] = "own.jsonl"
    file = tmp_path / "rounds.yaml"
    file.write_text(yaml.safe_dump(content))
    assert load_stages(file, {})[1].data == "own.jsonl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "stage 1: a generate stage needs label"),
        ({"num": 1}, "stage 1: num must be at least 2"),
        ({"lable": "x"}, 'did you mean "label"'),
    ],
)
def test_a_wrong_generate_stage(base, prompts, tmp_path, change, message):
    content = rounds(base, prompts, tmp_path)
    content["stages"][0].update(change)
    file = tmp_path / "rounds.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=message):
        load_stages(file, {})
