"""The page as a file: complete, self-contained, escaped, small, and made without torch."""

import base64
import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from redpencil.errors import RunFolderError
from redpencil.notebook import TokenView
from redpencil.report import build_report
from redpencil.report.embed import clean, json_script
from redpencil.report.entries import Entry, entries
from redpencil.report.facts import reproduce
from redpencil.report.figures import curves, histograms
from redpencil.report.notebook_part import _notes
from redpencil.report.packing import BUDGET, ROOMS, Room, pack_entries
from redpencil.report.rundata import Pair, RunData, read_run


class Elements(HTMLParser):
    """Counts elements and collects what would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        for name, value in attrs:
            if name in ("src", "href", "action", "data") and not (value or "").startswith("#"):
                self.loads.append(value or "")
            assert not name.startswith("on"), (tag, name, value)


def elements(path: Path) -> Elements:
    parser = Elements()
    parser.feed(path.read_text("utf-8"))
    return parser


def test_no_torch():
    code = "import sys, redpencil.report; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_one_self_contained_file(run_folder: Path):
    path = build_report(run_folder)
    assert path == run_folder / "report.html"
    page = elements(path)
    assert page.loads == ["data:,"]
    assert page.seen["script"] == 3 and "iframe" not in page.seen
    assert path.stat().st_size < 400_000
    assert not list(run_folder.glob(".report*"))
    assert "default-src &#39;none&#39;" in path.read_text("utf-8") or (
        "default-src 'none'" in path.read_text("utf-8")
    )


def test_the_same_run_makes_the_same_bytes(run_folder: Path):
    first = build_report(run_folder).read_bytes()
    assert build_report(run_folder).read_bytes() == first


def test_text_from_data_is_only_text(noted_run: Callable[..., Path], spoil: Callable[[Path], None]):
    folder = noted_run(pairs=20)
    harmless = elements(build_report(folder)).seen
    spoil(folder)
    path = build_report(folder)
    seen = elements(path).seen
    assert seen["script"] == harmless["script"] and "img" not in seen
    html = path.read_text("utf-8")
    assert "\x00" not in html and "49" not in re.findall(r'class="text"[^>]*>(\d+)', html)
    assert "alert(1)" in html and path.stat().st_size < 1_000_000


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_json_in_a_script_cannot_end_it(text: str):
    script = json_script({"text": clean(text)})
    assert not re.search("[<>&\u2028\u2029]", script)
    assert json.loads(script)["text"] == clean(text)
    clean(text).encode("utf-8")


def test_ten_thousand_long_pairs_stay_small():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(4000)]
    made = [
        Pair(
            prompt=" ".join(rng.choices(words, k=40)),
            chosen=" ".join(rng.choices(words, k=150)),
            rejected=" ".join(rng.choices(words, k=150)),
            margin=rng.gauss(0.3, 1),
            weight=rng.random(),
        )
        for _ in range(10_000)
    ]
    packed, room = pack_entries([Entry(pair=pair) for pair in made])
    assert len(packed) <= BUDGET < 4_500_000 and 100 <= room.rest < 4000
    assert (room.worst, room.longest) == (300, 4000)


def test_long_texts_without_spaces_stay_small():
    rng = random.Random(0)

    def text() -> str:
        return "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(3000))

    made = [Pair(prompt="", chosen=text(), rejected=text(), margin=-1.0) for _ in range(500)]
    packed, room = pack_entries([Entry(pair=pair) for pair in made])
    assert len(packed) <= BUDGET
    assert room.rest > 0 and 0 < room.worst < 300


def test_long_token_views_stay_small():
    rng = random.Random(0)
    words = [" " + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=4)) for _ in range(4000)]

    def side() -> tuple[tuple[str, float], ...]:
        return tuple((word, rng.gauss(0, 1)) for word in rng.choices(words, k=1000))

    made = []
    for i in range(400):
        view = TokenView(side(), side())
        chosen, rejected = ("".join(p for p, _ in s) for s in (view.chosen, view.rejected))
        pair = Pair(prompt=f"{i}", chosen=chosen, rejected=rejected, margin=-1.0)
        made.append(Entry(pair=pair, tokens=view if i < 300 else None))
    packed, room = pack_entries(made)
    assert len(packed) <= BUDGET
    content = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert [*map(int, content["tokens"])] == [*range(room.views)] and 0 < room.views < 300
    kept = [len(content["texts"][i]) for i in content["said"]["chosen"]]
    assert min(kept) > room.rest > 0 and max(kept) == room.longest + 1


def test_what_is_left_out_is_said():
    made = [Pair(prompt="", chosen="c", rejected="r", pair=i, margin=-1.0) for i in range(9)]
    view = TokenView((("c", 1.0),), (("r", 0.0),))
    run = RunData(name="r", after=made, tokens={p.key: view for p in made})
    found = entries(run)
    assert _notes(run, found, ROOMS[0]) == []
    cut, views = _notes(run, found, Room(140, 2, 1000, 5))
    assert "to 1,000 characters in the 2\u00a0hardest pairs, to 140 in the others" in cut
    assert "Of 9\u00a0pairs with token views, the 5 pressed hardest" in views


def test_numbers_beyond_any_float_are_not_known(new_run: Callable[..., Path]):
    folder = new_run(pairs=10)
    data = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(data | {"rows_read": 10**400, "rows_used": 3912}))
    html = build_report(folder).read_text("utf-8")
    assert "Rows read" not in html and "3,912" in html


def test_to_do_it_again_is_a_command(new_run: Callable[..., Path]):
    """Into a folder of its own: in the run's the same command would find it finished."""
    folder = new_run(pairs=10)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "out": str(folder)}))
    lines = reproduce(read_run(folder))
    assert lines[-1] == f"redpencil run {folder}/recipe.yaml out={folder}-again"
    assert lines[-2].startswith("# it was begun by: redpencil dpo --model tiny/reviewer")
    environment = json.loads((folder / "environment.json").read_text())
    del environment["command"]
    (folder / "environment.json").write_text(json.dumps(environment))
    lines = reproduce(read_run(folder))
    assert "pip install" in lines[1] and lines[2].startswith("redpencil run ")


def test_sections_without_data_are_left_out(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("stage: sft\nmodel: tiny\nmax_steps: 50\n")
    rows = [{"step": i, "loss": 3 / i, "grad_norm": 1.0, "learning_rate": 1e-4} for i in (1, 2, 3)]
    text = "".join(json.dumps(r) + "\n" for r in rows) + '{"step": 4, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    html = build_report(tmp_path).read_text("utf-8")
    assert 'id="curves"' in html and "3 of 50" in html
    for section in ("pairs", "samples", "data"):
        assert f'<section id="{section}"' not in html and f'href="#{section}"' not in html
    assert read_run(tmp_path).damaged == []


def test_damaged_files_are_named_not_hidden(new_run: Callable[..., Path]):
    folder = new_run(pairs=10)
    (folder / "data.json").write_text("{half")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], "garbage", *lines[1:]]) + "\n")
    damaged = read_run(folder).damaged
    assert damaged == [
        "metrics.jsonl: 1 lines cannot be read, the first is line 2",
        "data.json cannot be read",
    ]
    assert "data.json cannot be read" in build_report(folder).read_text("utf-8")


def test_what_is_not_a_run_is_refused(tmp_path: Path):
    (tmp_path / "a file").write_text("")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "a file"):
        with pytest.raises(RunFolderError, match="--out"):
            build_report(path)
    assert not (tmp_path / "report.html").exists()


def test_numbers_may_be_missing_or_not_finite(tmp_path: Path):
    rows = [{"step": i, "loss": float("nan") if i == 2 else None, "x": "y"} for i in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    lines = '{"step": 3, "chosen": "a", "margin": NaN}\n{"step": 3}\n'
    (tmp_path / "pairs.jsonl").write_text(lines)
    html = build_report(tmp_path).read_text("utf-8")
    assert "The loss became infinite or undefined" in html


def test_curves_are_thinned_to_averages():
    train = [{"step": i + 1, "loss": float(i % 2)} for i in range(4000)]
    (figure,) = curves(RunData(name="r", train=train))
    (series,) = figure["series"]
    assert len(series["x"]) == 400 and series["x"][-1] == 4000
    assert set(series["y"]) == {0.5} and series["low"] == "0" and series["high"] == "1"


def test_histograms_count_every_pair_with_an_edge_at_zero():
    after = [
        Pair(prompt="p", chosen="a", rejected="b", margin=m / 10, logp_chosen=m, logp_rejected=0.0)
        for m in range(-20, 81)
    ]
    figure = histograms(RunData(name="r", after=after))[0]
    counts, centres = figure["series"][0]["counts"], figure["centres"]
    assert sum(counts) == 101
    below = sum(n for n, x in zip(counts, centres, strict=True) if x < 0)
    assert below == 20
