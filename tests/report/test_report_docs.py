"""The page about the report shows pictures that exist, light and dark, of a reasonable size."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_picture_is_there_in_light_and_dark():
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    shown = re.findall(
        r'srcset="(.+?)-dark\.png"><img alt="[^"]{20,}" src="(.+?)-light\.png"', text
    )
    assert len(shown) == text.count("<picture>") == 8
    for dark, light in shown:
        assert dark == light
        for scheme in ("light", "dark"):
            path = DOCS / f"{light}-{scheme}.png"
            assert path.stat().st_size < 300_000, path


def test_every_file_it_names_is_read():
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    source = DOCS.parent / "src" / "redpencil" / "report" / "rundata.py"
    read = source.read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+)\.(?:jsonl|json|yaml|parquet)`", text.split("made of")[1]):
        assert f'"{name}' in read, name
