"""`redpencil frontier` on a tiny scale: the whole command, interrupted and gone on with."""

import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from redpencil.errors import RecipeError, RunFolderError
from redpencil.evals.points import policy_point
from redpencil.frontier.child import serve
from redpencil.frontier.folder import FrontierFolder
from redpencil.frontier.frontier import Asked, frontier
from redpencil.frontier.plan import DEFAULT_METHODS, METHODS, PARTS, Job, parse_methods, plan
from redpencil.frontier.pool import Pool
from redpencil.world.settings import FrontierSettings, tiny_frontier

TINY = """
import sys
import redpencil.frontier.frontier
from redpencil.cli.main import main
from redpencil.world.settings import tiny_frontier

if __name__ == "__main__":
    redpencil.frontier.frontier.FrontierSettings = tiny_frontier
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Starts the command line on the tiny world."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "tiny.py").write_text(TINY)
    environment = {**os.environ, "REDPENCIL_CACHE": str(folder / "cache")}

    def start(*words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(folder / "tiny.py"), "frontier", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def stopped(command, tmp_path_factory):
    """A frontier that was interrupted after its third job: folder, exit code, output."""
    out = tmp_path_factory.mktemp("frontier") / "out"
    running = command("--out", str(out), "--seeds", "2", "--jobs", "2")
    said = []
    for line in running.stdout:
        said.append(line)
        if re.match(r" +3/\d+ ", line):
            running.send_signal(signal.SIGINT)
            break
    said += running.stdout.readlines()
    return out, running.wait(), "".join(said)


@pytest.fixture(scope="module")
def finished(command, stopped):
    """The same command again, to its end: folder, output, times of the results found before."""
    out = stopped[0]
    before = {p.name: p.stat().st_mtime_ns for p in (out / "jobs").glob("*.json")}
    running = command("--out", str(out), "--seeds", "2", "--jobs", "2")
    said, _ = running.communicate()
    assert running.returncode == 0, said
    return out, said, before


def test_ctrl_c_stops_it_and_nothing_is_half_done(stopped):
    out, code, said = stopped
    assert code == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert len(list((out / "jobs").glob("*.json"))) >= 3
    assert not (out / "frontier.html").exists()


def test_the_same_command_goes_on(finished):
    out, said, before = finished
    assert len(before) >= 3
    after = {p.name: p.stat().st_mtime_ns for p in (out / "jobs").glob("*.json")}
    assert {name: after[name] for name in before} == before
    assert "failed" not in said


def test_every_job_has_its_points(finished):
    out = finished[0]
    settings = tiny_frontier()
    planned = [job for job in plan(settings, DEFAULT_METHODS, 2) if job.kind == "policy"]
    dots = [json.loads(line) for line in (out / "points.jsonl").read_text().splitlines()]
    trained = [d for d in dots if d["step"] is not None]
    assert len(trained) == len(planned) * settings.looks
    assert sum(d["final"] for d in trained) == len(planned)
    assert {d["method"] for d in dots} == set(DEFAULT_METHODS)
    best = [d for d in dots if d["method"] == "best-of-n"]
    assert sorted((d["seed"], d["strength"]) for d in best) == [(0, 2), (0, 4), (1, 2), (1, 4)]


def test_points_are_those_of_the_samples(finished):
    out = finished[0]
    result = json.loads((out / "jobs" / "dpo-1-0.json").read_text())
    look = result["points"][-1]
    assert np.shape(look["rewards"]) == np.shape(look["kl"]) == (6, 2)
    point = policy_point(np.array(look["rewards"]), np.array(look["kl"]))
    rows = [json.loads(line) for line in (out / "points.jsonl").read_text().splitlines()]
    row = next(
        r for r in rows if (r["method"], r["strength"], r["seed"]) == ("dpo", 1, 0) and r["final"]
    )
    assert row["reward"] == pytest.approx(np.mean(look["rewards"]))
    assert row["kl"] == pytest.approx(np.mean(look["kl"]))
    assert row["kl_stderr"] == pytest.approx(point.kl.within)
    with (out / "frontier.csv").open() as file:
        means = list(csv.DictReader(file))
    mean = next(m for m in means if m["method"] == "dpo" and m["strength"] == "1.0")
    assert mean["seeds"] == "2"


def test_seeds_differ_in_their_pairs_and_share_the_reference(finished):
    out = finished[0]
    first, second = ((out / "world" / f"pairs-{seed}.jsonl").read_text() for seed in (0, 1))
    assert first != second
    prompts = {json.loads(line)["prompt"] for line in (first + second).splitlines()}
    texts = [
        text
        for part in range(PARTS)
        for each in json.loads((out / "jobs" / f"samples-{part}.json").read_text())["texts"]
        for text in each
    ]
    held_out = {json.loads((out / "jobs" / "dpo-1-0.json").read_text())["points"][0]["example"]}
    assert len(texts) == 6 * 6
    assert not any(text.startswith(p) and text == p for p in prompts for text in held_out)
    recipes = [(out / "runs" / f"dpo-1-{seed}" / "recipe.yaml").read_text() for seed in (0, 1)]
    assert all(str(out / "sft" / "model") in recipe for recipe in recipes)


def test_finished_runs_keep_no_checkpoints(finished):
    assert not list((finished[0] / "runs").glob("*/checkpoints/step-*"))


def test_other_settings_do_not_go_into_the_same_folder(finished):
    with pytest.raises(RunFolderError, match="other settings"):
        frontier(finished[0], Asked(methods=("dpo",), seeds=1), FrontierSettings())


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="not a frontier"):
        frontier(tmp_path, Asked(methods=("dpo",), seeds=1), tiny_frontier())
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"seeds": 1, "jobs": 0}])
def test_counts_are_at_least_one(wrong):
    with pytest.raises(RecipeError, match="at least 1"):
        Asked(methods=("dpo",), **wrong)


def test_methods_are_named():
    assert parse_methods(None) == DEFAULT_METHODS
    assert parse_methods("best-of-n, dpo") == ("dpo", "best-of-n")
    with pytest.raises(RecipeError, match='did you mean "ppo-truth"'):
        parse_methods("ppo-thruth")
    with pytest.raises(RecipeError, match="names none"):
        parse_methods(" , ")


def test_a_plan_has_what_its_jobs_need():
    for methods in (tuple(METHODS), ("dpo",), ("best-of-n",), ("best-of-n-truth",)):
        jobs = plan(FrontierSettings(), methods, 3)
        names = [job.name for job in jobs]
        assert len(set(names)) == len(names)
        for place, job in enumerate(jobs):
            assert set(job.needs) <= set(names[:place]), job
    kinds = {job.kind for job in plan(FrontierSettings(), ("best-of-n-truth",), 3)}
    assert kinds == {"reference", "samples"}


def test_a_job_that_fails_takes_along_only_those_that_need_it(tmp_path, capsys):
    settings = tiny_frontier()
    folder = FrontierFolder.at(tmp_path / "out", settings)
    lost = Job(name="reward-9", kind="reward", seed=9)  # no pairs of seed 9 were ever made
    needy = Job(name="ranking-9", kind="ranking", seed=9, needs=("reward-9",))
    fine = Job(name="reference", kind="reference")
    with Pool(folder, settings, 1) as pool:
        pool.run([lost, needy, fine], lambda job, seconds: job.name)
    assert set(pool.failures) == {"reward-9", "ranking-9"}
    assert "needs reward-9" in pool.failures["ranking-9"]
    assert folder.finished(fine) and not folder.finished(lost)
    said = capsys.readouterr().out
    assert "reward-9 failed" in said and "Traceback" not in said


def test_a_child_that_dies_is_a_failed_job(tmp_path, monkeypatch):
    settings = tiny_frontier()
    folder = FrontierFolder.at(tmp_path / "out", settings)
    monkeypatch.setattr("redpencil.frontier.pool.serve", _die)
    with Pool(folder, settings, 1) as pool:
        pool.run([Job(name="reference", kind="reference")], lambda job, seconds: job.name)
    assert "ended by itself (exit code 7)" in pool.failures["reference"]


def _die(connection, folder, settings):
    connection.recv()
    os._exit(7)


def test_a_child_ends_when_its_parent_lets_go(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    folder = FrontierFolder(Path(tmp_path))
    child = context.Process(target=serve, args=(theirs, folder, tiny_frontier()))
    child.start()
    theirs.close()
    ours.close()
    child.join(60)
    assert child.exitcode == 0
