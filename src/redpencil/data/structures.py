"""Structure that stands in a cell as text: messages written as JSON, or as Python prints them.

Many exports do that: a JSON column of a database, `to_csv` of pandas and datasets. Read as prose,
such a cell would teach a model to write brackets. Text is taken for messages only where it is a
list of messages from its first to its last character; whatever else begins with a bracket stays
text. Python's form is parsed as literals, never evaluated.
"""

import ast
import io
import json
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from redpencil.data.formats import DEEPEST, depth_of

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""What data call the speakers, and what chat templates call them."""
WRAPPERS = ("messages", "conversations", "conversation")
"""Fields of an object that is a conversation: {"messages": [...]}."""
LONGEST_LITERAL = 1_000_000
"""Characters of a text that is tried as Python; parsing takes some hundred bytes for each."""
WRITTEN = 'column "{column}" holds messages as {form} text in {n} rows; they are read as messages'
_LEVELS = 4
"""Lists and objects within a cell that are looked into, and encodings of one text in another."""


class Written(list[Any]):
    """Messages that stood in the data as text. form: "JSON" or "Python"."""

    def __init__(self, messages: Sequence[Any], form: str) -> None:
        super().__init__(messages)
        self.form = form


def structured(cells: Mapping[str, Any]) -> dict[str, Any]:
    """A row's cells with messages for the texts that are messages."""
    return {name: _structured(value, _LEVELS) for name, value in cells.items()}


def written_in(cells: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(column, form) of each column whose messages stood there as text, at any level."""
    for name, value in cells.items():
        if form := _form_of(value, _LEVELS):
            yield name, form


class WrittenCount:
    """Counts the rows of a data set whose messages stand there as text."""

    def __init__(self) -> None:
        self._rows: Counter[tuple[str, str]] = Counter()

    def see(self, cells: Mapping[str, Any]) -> None:
        self._rows.update(written_in(cells))

    @property
    def counted(self) -> list[tuple[str, int]]:
        """A sentence for each column and form, with its rows."""
        return [
            (WRITTEN.format(column=column, form=form, n=f"{count:,}"), count)
            for (column, form), count in self._rows.items()
        ]

    @property
    def notes(self) -> list[str]:
        return [said for said, _ in self.counted]


def messages_in(text: str, levels: int = _LEVELS) -> Written | dict[str, Any] | None:
    """The messages that a text is, as JSON or as Python's repr; None for any other text.

    An object with a conversation in it ({"messages": [...]}) stays one.
    """
    inner = text.strip()
    if not (inner[:1] in ("[", "{", '"') and inner[-1:] in ("]", "}", '"')) or not levels:
        return None
    if "role" not in inner and "from" not in inner:
        return None
    value, form = _json(inner), "JSON"
    if value is None:
        value, form = _python(inner), "Python"
    if isinstance(value, str):
        # JSON text that was written as JSON once more.
        return messages_in(value, levels - 1)
    value = _structured(value, levels - 1)
    if isinstance(value, Mapping):
        for name in WRAPPERS:
            if _are_messages(value.get(name)):
                return {**value, name: Written(value[name], form)}
        value = [value]
    return Written(value, form) if _are_messages(value) else None


def value_in(text: str) -> Any:
    """The list or object that a text is, as JSON or as Python's repr; None if it is neither."""
    inner = text.strip()
    if inner[:1] not in ("[", "{") or inner[-1:] not in ("]", "}"):
        return None
    value = _json(inner)
    value = _python(inner) if value is None else value
    return value if isinstance(value, list | dict) else None


def conversation_in(value: Any) -> Any:
    """The list of messages in {"messages": [...]}; any other value as it is."""
    if isinstance(value, Mapping) and not {"role", "from"} & value.keys():
        for name in WRAPPERS:
            if isinstance(value.get(name), list | tuple):
                return value[name]
    return value


def _structured(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        found = messages_in(value, levels) if value.lstrip()[:1] in ("[", "{", '"') else None
        return value if found is None else found
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()  # what pandas makes of lists in a Parquet file
    if not levels:
        return value
    if isinstance(value, Mapping):
        if {"role", "from"} & value.keys():
            return value  # a message: what it says is text
        return {k: _structured(v, levels - 1) for k, v in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], str | Mapping | np.ndarray):
        return [_structured(v, levels - 1) for v in value]
    return value


def _form_of(value: Any, levels: int) -> str:
    if isinstance(value, Written):
        return value.form
    if not levels or not isinstance(value, list | Mapping):
        return ""
    inner = value.values() if isinstance(value, Mapping) else value[:20]
    return next((form for v in inner if (form := _form_of(v, levels - 1))), "")


def _are_messages(value: Any) -> bool:
    """Messages of which at least one has a role that is known; a misspelt one is an error later."""
    if not isinstance(value, list | tuple) or not value or not all(map(_is_message, value)):
        return False
    return any(str(v.get("role", v.get("from"))).strip().lower() in ROLES for v in value)


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    role = value.get("role", value.get("from"))
    said = value.get("content", value.get("value"))
    silent = said is None and bool(value.get("tool_calls") or value.get("function_call"))
    return isinstance(role, str) and (silent or isinstance(said, str | list | tuple))


def _json(text: str) -> Any:
    try:
        return _shallow(json.loads(text), text)
    except (ValueError, RecursionError):
        return None


def _python(text: str) -> Any:
    """What Python or numpy printed: literals, `array(...)` and `nan`; numpy writes no commas."""
    if len(text) > LONGEST_LITERAL:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes, in text that is no Python at all
            tree = ast.parse(_with_commas(text), mode="eval")
            return _shallow(ast.literal_eval(_Literals().visit(tree)), text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return None


def _shallow(value: Any, text: str) -> Any:
    deep = text.count("[") + text.count("{") > DEEPEST and depth_of(value) > DEEPEST
    return None if deep else value


class _Literals(ast.NodeTransformer):
    """numpy's way of writing, as plain literals."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array"
        return self.visit(node.args[0]) if is_array and node.args else node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Constant(None), node) if node.id in ("nan", "NaN") else node


def _with_commas(text: str) -> str:
    """A comma between two values that stand beside each other, outside of strings."""
    starts = [0]
    for line in io.StringIO(text, newline=""):
        starts.append(starts[-1] + len(line))
    ends_value, places = False, []
    for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT):
            continue
        is_value = token.type in (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)
        if ends_value and (is_value or token.string in ("{", "[", "-")):
            places.append(starts[token.start[0] - 1] + token.start[1])
        ends_value = is_value or token.string in ("}", "]")
    for at in reversed(places):
        text = f"{text[:at]}, {text[at:]}"
    return text
