"""What does not belong into a text, as patterns: leftovers of templates, characters that were lost.

A pattern is here only if a careful reader would agree nearly every time. `<s>` alone is HTML for
struck-out text, "Answer:" a fair beginning, "None" a fair answer: they are not.
"""

import re

_TOKENS = r"""
    <\|[A-Za-z][A-Za-z0-9_]{1,28}\|>               # <|im_end|>, <|endoftext|>, <|user|>
  | <｜[^<>｜\s]{2,30}｜>                           # DeepSeek's full-width bars
  | </s>
  | <(?:start_of_turn|end_of_turn|bos|eos|pad|unk)>
  | \[/?INST\] | <</?SYS>>
  | \[(?:EOS|BOS|PAD)\]
"""
TOKEN = re.compile(_TOKENS, re.VERBOSE)
"""The text of a special token of some common tokenizer or chat template."""

HEADING = re.compile(r"^\#\#\#[ ]?(?:Response|Instruction|Human|Assistant|User)[ ]?:", re.M | re.X)
"""A heading of the Alpaca or Vicuna template."""

_LAST = re.compile(rf"(?:{_TOKENS}|\#{{3,}})\Z", re.VERBOSE)
_LONGEST = 64
"""No such string is longer."""

OTHER_SPEAKER = re.compile(r"\n[ \t]*(?:Human|User)[ \t]*:(?=[ \t\n])")
"""An answer that goes on as the other speaker."""

OWN_NAME = re.compile(r"\A\s*(?:Assistant|ASSISTANT|AI|Bot|Chatbot)[ \t]*:")
"""An answer that begins with the name of its speaker."""

SCRIPT = re.compile(
    r"dialog|conversation|chat|transcript|script|role.?play|interview|^[ \t]*(?:Human|User)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
"""A prompt that may well ask for lines with speakers."""

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
UNSEEN = re.compile(r"[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
"""Characters that show nothing; those that Persian, Hindi, emoji or Hebrew need are not there."""

_HIGH = "[\x80-\xbf\u20ac\u201a-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u02c6\u02dc\u2122\u0160\u0161\u0152\u0153\u017d\u017e\u0178\u0192\u2013\u2014\u2018-\u201d]"  # noqa: E501
MOJIBAKE = re.compile(
    rf"[ÂÃ][\x80-\xbf]|â[\x80€]{_HIGH}|ï»¿|ï¿½|ð[\x9fŸ]{_HIGH}{{2}}|(?:[ÐÑ][\x80-\xbf]){{2}}"
    rf"|(?:[ìíëê]{_HIGH}{{2}}){{2}}"
)
"""UTF-8 that was read as Latin-1 or Windows-1252: "Ã©" for "é", "â€™" for "’"."""

PLACEHOLDERS = frozenset(
    {
        "no answer",
        "no response",
        "n/a",
        "null",
        "nan",
        "undefined",
        "todo",
        "tbd",
        "[deleted]",
        "[removed]",
        "deleted",
        "removed",
        "lorem ipsum",
        "답변 없음",
        "응답 없음",
        "无回答",
        "回答なし",
    }
)


def end_of_words(answer: str) -> int:
    """Where an answer ends but for template strings, and ###, that nobody said, and the white space
    around them; its length if there are none."""
    end, found = len(answer), False
    while True:
        bare = end
        while bare and answer[bare - 1].isspace():
            bare -= 1
        last = _LAST.search(answer, max(0, bare - _LONGEST), bare)
        html = last and last.group() == "</s>" and answer.rfind("<s>", 1, last.start()) > 0
        if last is None or html:
            return bare if found else len(answer)
        end, found = last.start(), True


def is_placeholder(answer: str) -> bool:
    """An answer that says only that there is none."""
    if len(answer) > 60:
        return False
    said = answer[: end_of_words(answer)].strip().strip("\"'`.<>").casefold()
    return said in PLACEHOLDERS


def tokens_in(text: str) -> list[re.Match[str]]:
    """Special tokens' texts in a text; `</s>` behind `<s>` is HTML and not among them."""
    if "<" not in text and "[" not in text:
        return []
    found = list(TOKEN.finditer(text))
    if found and text.find("<s>", 1) > 0:
        found = [m for m in found if m.group() != "</s>" or text.rfind("<s>", 1, m.start()) < 0]
    return found
