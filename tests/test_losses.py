"""Whole runs with the losses that are not of plain pairs: rankings, and the baseline."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import redpencil as rp
from redpencil.report.rundata import read_run
from redpencil.use.measure import evaluate_pairs


def trained(base: Path, data: Path, out: Path, **options: object) -> rp.Run:
    settings = {
        "batch_size": 8,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "eval_fraction": 0.2,
        "sample_prompts": 2,
        "sample_tokens": 8,
        "cache": False,
    }
    return rp.train(
        rp.DpoRecipe(model=str(base), data=str(data), out=str(out), **settings, **options)
    )


def weights(run: rp.Run) -> dict[str, torch.Tensor]:
    return load_file(run.model / "model.safetensors")


@pytest.fixture(scope="module")
def twos(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair for each prompt of the rankings of three that `pairs` holds."""
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    path = tmp_path_factory.mktemp("twos") / "twos.jsonl"
    lines = []
    for row in rows:
        better, worse = row["comparisons"][0]
        texts = row["responses"]
        lines.append({"prompt": row["prompt"], "chosen": texts[better], "rejected": texts[worse]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_plackett_luce_of_plain_pairs_trains_as_dpo(base: Path, twos: Path, tmp_path: Path) -> None:
    one, other = (
        trained(base, twos, tmp_path / loss, loss=loss) for loss in ("plackett-luce", "dpo")
    )
    assert one.metrics[0]["eval/loss"] == pytest.approx(math.log(2), abs=1e-6)
    a, b = weights(one), weights(other)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_plackett_luce_of_rankings(base: Path, pairs: Path, tmp_path: Path) -> None:
    """At step 0 a ranking of three costs log 3! over its three comparisons. It is learned as one:
    its pairs, each on its own, lead to other weights under DPO."""
    run = trained(base, pairs, tmp_path / "pl", loss="plackett-luce")
    assert run.metrics[0]["eval/loss"] == pytest.approx(math.log(6) / 3, rel=1e-5)
    losses = [row["loss"] for row in run.metrics if "loss" in row]
    assert losses[0] == pytest.approx(math.log(6) / 3, rel=1e-5) and losses[-1] < losses[0]
    dpo = trained(base, pairs, tmp_path / "dpo")
    a, b = weights(run), weights(dpo)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_unlikelihood_keeps_its_reference_for_statistics(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    """Rewards are log pi/pi_ref, in the run's files and in `eval`; KL is measured as ever."""
    run = trained(base, pairs, tmp_path / "run", loss="unlikelihood", alpha=0.5)
    before, after = run.summary["eval_before"], run.summary["eval_after"]
    mean = before["logps/chosen"], before["logps/rejected"]
    assert before["loss"] == pytest.approx(0.5 * mean[1] - mean[0], rel=1e-5)
    assert before["rewards/accuracies"] == 0.5 and before["kl"] == pytest.approx(0, abs=1e-5)
    assert after["loss"] < before["loss"] and after["kl"] != 0
    rise = after["logps/chosen"] - before["logps/chosen"]
    assert after["rewards/chosen"] == pytest.approx(rise, rel=1e-3, abs=1e-3)
    data = read_run(run.path)
    for pair in data.after:
        assert pair.reward_chosen == pytest.approx(pair.logp_chosen - pair.ref_logp_chosen)
    assert data.to_stay_close == "lower --alpha"
    measured = evaluate_pairs(str(run.path), None, None, None, {})
    assert measured["beta"] == 1.0
    assert measured["margin"] == pytest.approx(after["rewards/margins"], rel=1e-3, abs=1e-4)
