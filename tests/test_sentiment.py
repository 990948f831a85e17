"""The sentiment experiment of `examples/`: its classifier, its prefixes, its figure."""

import json
import random
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import sentiment


def test_the_classifier_is_the_true_reward(tmp_path, monkeypatch):
    labelled = [("a superb joy of a film", 1), ("a dull bore of a film", 0)] * 20
    weights, accuracy = sentiment.fit_classifier(labelled, [("superb", 1), ("a dull bore", 0)])
    assert accuracy == 1.0
    assert weights["superb"] > 0 > weights["dull bore"]
    assert weights["a film"] == pytest.approx(0, abs=1e-3)
    (tmp_path / "c.json").write_text(json.dumps(weights))
    monkeypatch.setenv(sentiment.CLASSIFIER, str(tmp_path / "c.json"))
    good, bad = sentiment.log_odds(["a superb", "a dull"], [" joy", " bore"], [{}, {}])
    expected = sum(weights[g] for g in ("", "a", "superb", "joy", "a superb", "superb joy"))
    assert good == pytest.approx(expected)
    assert bad < 0 < good


def test_prefixes_have_two_to_eight_words():
    sentence = "one two three four five six seven eight nine ten"
    found = [sentiment.cut(sentence, random.Random(seed)) for seed in range(50)]
    assert all(a + b == sentence for a, b in found)
    assert {len(a.split()) for a, _ in found} == set(range(2, 9))


def test_the_figure_has_every_point():
    points = [
        {"method": "reference", "reward": 0.0, "kl": 0.0},
        {"method": "dpo", "beta": 0.5, "reward": 0.8, "reward_stderr": 0.1, "kl": 0.9},
        {"method": "optimum", "beta": 1.0, "reward": 1.5, "kl": 0.5, "caveat": ""},
        {"method": "optimum", "beta": 0.5, "reward": 2.5, "kl": 1.5, "caveat": "few samples"},
    ]
    tree = ElementTree.fromstring(sentiment.drawn(points))
    tags = [element.tag.rpartition("}")[2] for element in tree.iter()]
    assert tags.count("circle") == 1
    dashed = [e for e in tree.iter() if e.get("stroke-dasharray")]
    assert len(dashed) == 1
