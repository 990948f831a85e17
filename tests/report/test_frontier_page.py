"""The frontier's page, from a made-up `frontier.json`."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from redpencil.errors import RunFolderError
from redpencil.report import build_report
from redpencil.report.frontier_page import build_frontier_page
from redpencil.report.frontier_verdict import judge_frontier
from redpencil.world.settings import FrontierSettings

NASTY = "</script><script>alert(1)</script>"


def optimum(kl: float) -> float:
    return 1.4 * math.sqrt(kl / 2) if kl < 2 else 1.4


def cell(kl: float, share: float, stderr: float = 0.01) -> dict[str, Any]:
    gain = optimum(kl)
    return {
        "kl": kl,
        "reward": share * gain,
        "stderr": stderr,
        "share": share,
        "share_stderr": stderr / gain,
        "trusted": kl < 3,
    }


def mean(method: str, strength: float | None, kl: float, reward: float) -> dict[str, Any]:
    return {
        "method": method,
        "strength": strength,
        "step": 90,
        "final": True,
        "seeds": 3,
        "kl": kl,
        "kl_stderr": 0.1,
        "reward": reward,
        "reward_stderr": 0.001,
        "fraction": reward / optimum(kl),
        "fraction_stderr": 0.02,
        "trusted": True,
        "fluent": 0.97,
        "tokens": 38.2,
    }


def frontier(dpo: float = 0.93, ppo: float = 0.7) -> dict[str, Any]:
    levels = (0.5, 1.0, 2.0)
    means = [mean("dpo", 0.1, 2.0, 1.3), mean("ppo", 0.05, 2.2, 0.9)]
    return {
        "settings": asdict(FrontierSettings()),
        "methods": [
            {"name": "dpo", "label": "DPO", "symbol": "β", "line": [[0, 0], [2.0, 1.3]]},
            {"name": "ppo", "label": f"PPO {NASTY}", "symbol": "β", "line": [[0, 0], [2.2, 0.9]]},
        ],
        "seeds": 3,
        "reference": {"reward": 0.0, "completions": 160},
        "optimum": [
            {"kl": k / 10, "beta": 1.0, "reward": optimum(k / 10), "stderr": 0.01, "bias": 0.0}
            | {"trusted": k < 30}
            for k in range(1, 40)
        ],
        "means": means,
        "points": [{**m, "seed": 0} for m in means] + [{**means[0], "seed": 1, "reward": -9.0}],
        "comparison": [
            {"method": "optimum", "at": [cell(kl, 1.0) for kl in levels]},
            {"method": "dpo", "at": [cell(kl, dpo) for kl in levels]},
            {"method": "ppo", "at": [None, *(cell(kl, ppo) for kl in levels[1:])]},
        ],
        "failures": {},
        "command": "redpencil frontier --out runs/frontier --seeds 3",
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "frontier.json").write_text(json.dumps(frontier()), encoding="utf-8")
    return tmp_path


def test_one_file_that_loads_nothing(folder):
    page = build_report(folder)
    assert page == folder / "frontier.html"
    text = page.read_text("utf-8")
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", text)
    assert "alert(1)</script>" not in text
    assert text.count("<script") == 3
    first = text
    assert build_frontier_page(folder).read_text("utf-8") == first  # same files, same bytes


def test_the_tables_say_what_the_file_says(folder):
    text = build_frontier_page(folder).read_text("utf-8")
    assert "93 ± 1\u00a0%" in text
    assert "2.00 ± 0.10" in text and "1.30 ± 0.01" in text
    assert "1 of 3 points lie outside this view" in text
    assert "redpencil frontier --out runs/frontier --seeds 3" in text


def test_failures_are_named(folder):
    content = {**frontier(), "failures": {"ppo-0.05-1": f"loss became NaN {NASTY}"}}
    (folder / "frontier.json").write_text(json.dumps(content), encoding="utf-8")
    text = build_frontier_page(folder).read_text("utf-8")
    assert "What is missing" in text and "loss became NaN" in text
    assert "What is missing" not in build_frontier_page_of(folder, frontier())


def build_frontier_page_of(folder: Path, content: dict[str, Any]) -> str:
    (folder / "frontier.json").write_text(json.dumps(content), encoding="utf-8")
    return build_frontier_page(folder).read_text("utf-8")


def test_a_folder_without_a_frontier_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"no frontier\.json"):
        build_frontier_page(tmp_path)


def test_the_verdict_is_on_dpo_at_the_farthest_kl_that_it_reaches():
    verdict = judge_frontier(frontier())
    assert verdict.headline == "DPO gets 93\u00a0% of what is possible at 2\u00a0nats"
    assert verdict.tone == "good"
    assert [f.value for f in verdict.figures] == ["93\u00a0%", "70\u00a0%"]
    assert "gains 1.40" in verdict.sentences[0]
    assert "DPO lies above PPO" in verdict.sentences[1]


def test_the_verdict_knows_when_dpo_is_below_or_level():
    low = judge_frontier(frontier(dpo=0.6, ppo=0.9))
    assert low.tone == "unclear" and "lies below PPO" in low.sentences[1]
    level = judge_frontier(frontier(dpo=0.7, ppo=0.705))
    assert "cannot be told from PPO" in level.sentences[1]


def test_nothing_to_compare_is_said():
    content = frontier()
    for row in content["comparison"][1:]:
        row["at"] = [None] * 3
    assert judge_frontier(content).headline == "Nobody moved far enough to compare"


def test_without_dpo_the_verdict_is_on_the_best_where_most_can_be_compared():
    content = frontier()
    optimum_row, _, ppo = content["comparison"]
    content["comparison"] = [optimum_row, ppo, {"method": "rloo", "at": [None, cell(1, 0.5), None]}]
    content["methods"].append({"name": "rloo", "label": "RLOO", "symbol": "β", "line": []})
    headline = judge_frontier(content).headline
    assert "gets 70\u00a0%" in headline and "at 1\u00a0nats" in headline
