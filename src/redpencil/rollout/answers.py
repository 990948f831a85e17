"""The final answer of a text, and whether it is the reference answer: exact, no model involved.

The reference decides what is compared. Where it is a number ("72", "$1,234.50", "... #### 72",
"\\\\boxed{3/4}"), the response's final number is compared with it as an exact fraction; where it is
not ("Paris", "(B)"), the response's normalised final answer with the normalised reference.

What a model writes is not to be trusted: "1e99999999" is a short text and a number that no memory
holds. Numbers beyond `MOST_DIGITS` are not worked out, so they equal no number.
"""

import re
from fractions import Fraction

MARKER = "####"
"""What GSM8K writes before the final answer."""

MOST_DIGITS = 400
"""A number's digits as typed, and the size of its power of ten: every float64 is within."""

_NUMBER = re.compile(
    r"(?<![\w.])"  # not the middle of a word or of another number
    r"(?P<sign>[-−]?)\$?(?P<minus>[-−]?)"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)"
    r"(?:\s?/\s?(?P<below>[1-9]\d*))?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")


def same_answer(response: str, reference: str) -> bool:
    """Whether `response` ends in the answer of `reference`."""
    wanted = _marked(reference)
    number = _as_number(wanted if wanted is not None else reference)
    if number is not None:
        return final_number(response) == number
    return final_text(response) == final_text(reference) != ""


def final_number(text: str) -> Fraction | None:
    """The number of the marked answer, if one is marked; else the last number. None where there is
    none, or where it is beyond `MOST_DIGITS`: that is no answer, and what stands before it is not
    the final one."""
    marked = _marked(text)
    found = _numbers(text if marked is None else marked)
    if not found:
        return None
    return found[-1] if marked is None else found[0]


def final_text(text: str) -> str:
    """The marked answer, if one is marked, else the last line; without case, spaces and dots."""
    marked = _marked(text)
    lines = [line for line in (text if marked is None else marked).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return " ".join(last.casefold().split()).strip(" .,:;!?\"'*`$")


def _marked(text: str) -> str | None:
    """What follows the last "####" on its line, or stands in the last \\boxed{}."""
    _, marker, after = text.rpartition(MARKER)
    if marker:
        return after.strip().partition("\n")[0].strip()
    return _boxed(text)


def _boxed(text: str) -> str | None:
    _, command, rest = text.rpartition("\\boxed{")
    if not command:
        return None
    depth = 1
    for at, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if not depth:
            return rest[:at].strip()
    return None  # never closed: the text was cut off


def _as_number(text: str) -> Fraction | None:
    """The number that `text` is as a whole, its unit of money or percent aside."""
    plain = _plain(text).strip().removesuffix(".").removesuffix("%").strip()
    match = _NUMBER.fullmatch(plain)
    return _value(match) if match else None


def _numbers(text: str) -> list[Fraction | None]:
    return [_value(match) for match in _NUMBER.finditer(_plain(text))]


def _plain(text: str) -> str:
    """LaTeX's fractions and escapes as they are typed: \\frac{1}{2} is 1/2."""
    text = _FRACTION.sub(r"\1/\2", text)
    return text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ",").replace("\\!", "")


def _value(match: re.Match[str]) -> Fraction | None:
    """The exact number, or None where that is beyond `MOST_DIGITS`."""
    digits, below = match["digits"].replace(",", ""), match["below"] or "1"
    mantissa, _, power = digits.lower().partition("e")
    # The power's own digits first: a power of 5,000 digits cannot be turned into an int either.
    if (
        max(len(mantissa), len(below), len(power)) > MOST_DIGITS
        or abs(int(power or 0)) > MOST_DIGITS
    ):
        return None
    value = Fraction(digits) / int(below)
    return -value if match["sign"] or match["minus"] else value
