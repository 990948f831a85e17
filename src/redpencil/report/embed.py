"""How data from a run gets into a page without harm: cleaned text, safe JSON, packed payloads."""

import base64
import gzip
import json
import re
from typing import Any

from markupsafe import Markup, escape

LONGEST_TEXT = 4_000
"""Characters of one text that the page carries; the whole length is stated."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_OPTION = re.compile(r"--[a-z][a-z-]*[a-z]")
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


def whole_options(text: str) -> Markup:
    """Our own sentence, escaped, with options such as --max-steps kept on one line."""
    return Markup(_OPTION.sub(r'<span class="whole">\g<0></span>', str(escape(clean(text)))))


def json_script(content: Any) -> Markup:
    """JSON that may stand inside a <script> element: no character in it can end the element."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def pack(text: str) -> str:
    """gzip in base64: inflated by the browser's own DecompressionStream. Same input, same bytes."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")
