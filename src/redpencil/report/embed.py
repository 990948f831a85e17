"""How data from a run gets into a page without harm: cleaned text, safe JSON, packed payloads."""

import base64
import gzip
import json
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from redpencil.report.rundata import Pair

LONGEST_TEXT = 4_000
"""Characters of one text that the page carries; the whole length is stated."""

PAIRS_BUDGET = 2_200_000
"""Bytes that the pairs may take in the page (packed): all numbers stay, texts are shortened."""

WORST = 300
"""So many of the most wrongly ordered pairs keep long texts when the rest must be shortened."""

_CAPS = ((4000, 4000), (4000, 1500), (4000, 600), (2000, 300), (1000, 150), (500, 60), (200, 0))
"""(characters for the worst pairs, for the others), tried in turn until the budget holds."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` with invisible control characters made visible and lone surrogates replaced.

    Tabs and newlines stay. Right-to-left marks stay: the page isolates every text instead.
    """
    text = _SURROGATE.sub("\ufffd", text.replace("\r\n", "\n"))
    return _CONTROL.sub(lambda m: "\u2421" if m[0] == "\x7f" else chr(0x2400 + ord(m[0])), text)


def cut(text: str, longest: int = LONGEST_TEXT) -> str:
    """The beginning of a cleaned text, ending in an ellipsis where something is missing."""
    return clean(text if len(text) <= longest else text[:longest] + "…")


def json_script(content: Any) -> Markup:
    """JSON that may stand inside a <script> element: no character in it can end the element."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def pack(text: str) -> str:
    """gzip in base64: inflated by the browser's own DecompressionStream. Same input, same bytes."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")


def pack_pairs(pairs: Sequence[Pair]) -> tuple[str, int]:
    """Pairs for the notebook, packed, and the characters that the shortest-kept text may have.

    Each text is stored once (one answer stands in several pairs). Worst pairs come first.
    """
    ordered = sorted(pairs, key=lambda p: -(p.weight or 0.0))
    for worst, rest in _CAPS:
        payload = _payload(ordered, worst, rest)
        if len(payload) > 8 * PAIRS_BUDGET and (worst, rest) != _CAPS[-1]:
            continue  # not worth compressing
        packed = pack(payload)
        if len(packed) <= PAIRS_BUDGET:
            break
    return packed, rest


def _payload(ordered: Sequence[Pair], worst: int, rest: int) -> str:
    texts: dict[str, int] = {}
    lengths: list[int] = []

    def index(text: str, longest: int) -> int:
        if text not in texts:
            texts[text] = len(texts)
            lengths.append(longest)
        return texts[text]

    rows = []
    for rank, p in enumerate(ordered):
        longest = worst if rank < WORST else rest
        logps = (p.logp_chosen, p.logp_rejected, p.ref_logp_chosen, p.ref_logp_rejected)
        numbers = (p.margin, p.weight, *logps)
        row: list[Any] = [index(t, longest) for t in (p.prompt, p.chosen, p.rejected)]
        row += [None if v is None else float(f"{v:.5g}") for v in numbers]
        rows.append([*row, p.length_chosen, p.length_rejected, index(p.file, 200), p.row])
    kept = [cut(text, longest) for text, longest in zip(texts, lengths, strict=True)]
    full = [len(t) if len(t) > n else 0 for t, n in zip(texts, lengths, strict=True)]
    content = {"texts": kept, "full": full, "rows": rows}
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
