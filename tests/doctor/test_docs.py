"""docs/doctor.md names every finding that is not one of the statistics, with its severity."""

import importlib
import pkgutil
import re
from pathlib import Path

import redpencil.doctor
from redpencil.doctor import reasons
from redpencil.doctor.rows.forms import _WITHIN
from redpencil.doctor.tally import Kind

DOCS = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"
DATA_DOCS = DOCS.with_name("data.md")


def known():
    """(key, severity) of every kind of finding on structure or preference."""
    for module in pkgutil.walk_packages(redpencil.doctor.__path__, "redpencil.doctor."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Kind) and value.group != "statistics":
                yield value.key, value.severity
    for row in (*reasons._MALFORMED, *reasons._ASIDE.values()):
        yield row[0], row[2]
    yield from ((key, "note") for key, _ in _WITHIN.values())


def test_every_finding_is_in_the_tables():
    said = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `") and line.count(" | ") >= 2:
            keys, severity, _ = re.split(r" \| ", line.strip("| "), maxsplit=2)
            said |= dict.fromkeys(re.findall(r"`([a-z-]+)`", keys), severity)
    assert len(set(known())) > 30, "the test looks where the kinds are"
    missing = {key for key, severity in known() if severity not in said.get(key, "")}
    assert not missing


def test_every_reason_of_the_data_room_has_advice():
    """Rows are set aside for the reasons that docs/data.md lists; each is a finding here."""
    text = DATA_DOCS.read_text(encoding="utf-8")
    table = text.partition("| reason | meaning |")[2].partition("\n\n")[0]
    listed = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    elsewhere = {
        "prompt is in the evaluation data",
        "prompt too long",
        "same prompt as an earlier row",
    }
    assert listed - elsewhere == set(reasons._ASIDE)
