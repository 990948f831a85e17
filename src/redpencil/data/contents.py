"""Cells become contents: text, chat turns or token ids; or one clear DataError, or a set-aside row.

Turns come as {role, content} or ShareGPT's {from, value}; roles are given the names that chat
templates know. Other keys of a turn (`tool_calls`, `name`, ...) stay.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redpencil.errors import DataError, did_you_mean
from redpencil.types import Content, Message, Origin

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
LARGEST_ID = 2**31 - 1
_TYPES = {str: "text", bool: "true/false", int: "a number", float: "a number", type(None): "null"}

Turns = tuple[Message, ...]


class SetAside(Exception):
    """The row is well-formed but unusable. reason: a short fixed phrase; detail: what was seen."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Row:
    """A row with its name, for messages. Absent columns and null are the same: None."""

    origin: Origin
    cells: Mapping[str, Any]

    def get(self, column: str) -> Any:
        return self.cells.get(column)

    def error(self, column: str, problem: str) -> DataError:
        return DataError(f'{self.origin}, column "{column}": {problem}')

    def wrong(self, column: str, wanted: str, value: Any) -> DataError:
        return self.error(column, f"wanted {wanted}, found {describe(value)}")

    def text_or_turns(self, column: str) -> str | Turns:
        return text_or_turns(self, column, self.get(column))

    def turns(self, column: str) -> Turns:
        value = self.get(column)
        if not isinstance(value, list | tuple):
            raise self.wrong(column, "a list of messages", value)
        return tuple(_turn(self, column, v) for v in value)

    def sequence(self, column: str) -> Sequence[Any]:
        value = self.get(column)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list | tuple):
            raise self.wrong(column, "a list", value)
        return value

    def ids(self, column: str) -> np.ndarray:
        return token_ids(self, column, self.get(column))

    def system(self) -> str:
        value = self.get("system")
        if value is not None and not isinstance(value, str):
            raise self.wrong("system", "text", value)
        return value or ""

    def tools(self) -> tuple[Mapping[str, Any], ...] | None:
        """The `tools` column: a list of objects, or the JSON text of one."""
        value = self.get("tools")
        if isinstance(value, str):
            if not value.strip():
                return None
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise self.wrong("tools", "a list of tools", value) from error
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(v, Mapping) for v in value):
            raise self.wrong("tools", "a list of tools", value)
        return tuple(without_nulls(v) for v in value) or None


def describe(value: Any) -> str:
    """A value in a few words for a message."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, list(value)[:4])) or 'nothing in it'}"
    if isinstance(value, list | tuple | np.ndarray):
        inner = f" of {describe(value[0])}" if len(value) else ""
        return f"a list{inner}" if inner else "an empty list"
    kind = _TYPES.get(type(value), type(value).__name__)
    return kind if value is None else f"{kind} {str(value)[:40]!r}"


def text_or_turns(row: Row, column: str, value: Any) -> str | Turns:
    """Text, or turns: a list of messages or a single one."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return (_turn(row, column, value),)
    if isinstance(value, list | tuple):
        return tuple(_turn(row, column, v) for v in value)
    raise row.wrong(column, "text or a list of messages", value)


def _turn(row: Row, column: str, value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise row.wrong(column, "messages {role, content}", value)
    role_key = "role" if "role" in value or "from" not in value else "from"
    text_key = "value" if "value" in value and "content" not in value else "content"
    role = value.get(role_key)
    if not isinstance(role, str):
        raise row.error(column, f'a message needs "role" as text, found {describe(value)}')
    known = ROLES.get(role.strip().lower())
    if known is None:
        raise row.error(column, f"unknown role {role!r}{did_you_mean(role, ROLES)}")
    rest = {
        k: without_nulls(v)
        for k, v in value.items()
        if k not in (role_key, text_key) and v is not None
    }
    content = _content(row, column, value.get(text_key), rest)
    if role == "function_call" and (calls := _calls(content)):
        return {"role": known, "content": "", "tool_calls": calls, **rest}
    return {"role": known, "content": content, **rest}


def _content(row: Row, column: str, value: Any, rest: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return value
    if value is None and rest.get("tool_calls"):
        return ""
    if isinstance(value, list | tuple) and all(isinstance(v, Mapping) for v in value):
        return [without_nulls(v) for v in value]
    raise row.error(column, f'a message needs "content" as text, found {describe(value)}')


def _calls(content: Any) -> list[dict[str, Any]]:
    """ShareGPT writes a call as the JSON text of {name, arguments}, or of a list of them."""
    try:
        value = json.loads(content)
    except (TypeError, ValueError, RecursionError):
        return []
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        return []
    return [
        {"type": "function", "function": {"name": c["name"], "arguments": c.get("arguments", {})}}
        for c in calls
    ]


def without_nulls(value: Any) -> Any:
    """Parquet fills the fields that a struct does not have with null: take them out again."""
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(v) for v in value]
    return value


def token_ids(row: Row, column: str, value: Any) -> np.ndarray:
    """(L,) int32 from a list of integers; DataError for anything else."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise row.wrong(column, "a list of token ids", value)
    for item in value:
        if type(item) is not int or not 0 <= item <= LARGEST_ID:
            raise row.error(column, f"token ids are integers from 0, found {describe(item)}")
    return np.array(value, dtype=np.int32)


def is_blank(content: Content) -> bool:
    """Nothing to learn from: no ids, only whitespace, or assistant turns that say nothing."""
    if isinstance(content, str):
        return not content.strip()
    if isinstance(content, np.ndarray):
        return len(content) == 0
    return all(_silent(t) for t in content if t["role"] == "assistant")


def _silent(turn: Message) -> bool:
    content = turn["content"]
    text = content if isinstance(content, str) else "".join(str(p.get("text", p)) for p in content)
    return not text.strip() and not turn.get("tool_calls")


def same(one: Content, other: Content) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    return not isinstance(other, np.ndarray) and one == other
