"""Cells become contents: text, chat turns or token ids; or one clear DataError, or a set-aside row.

Turns come as {role, content} or ShareGPT's {from, value}; roles are given the names that chat
templates know; content in parts is joined, arguments of calls are objects. A turn of the assistant
that is not to be learned (`weight` 0, `loss` or `train` false) is marked so. Other keys of a turn
(`tool_calls`, `name`, ...) stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redpencil.data.structures import ROLES, conversation_in, value_in
from redpencil.errors import DataError, did_you_mean
from redpencil.types import Content, Message, Origin

LARGEST_ID = 2**31 - 1
NOT_TEXT = "content that is not text"
MUTED = "train"
"""The key of a turn that is not to be learned; its value is False."""
_WEIGHTS = ("weight", "loss", "train")
"""What data call the weight of a turn: OpenAI, ms-swift, axolotl."""
_MEDIA = ("image", "video", "audio")
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
        found = None if isinstance(value, str) else text_or_turns(self, column, value)
        if not isinstance(found, tuple):
            raise self.wrong(column, "a list of messages", value)
        return found

    def sequence(self, column: str) -> Sequence[Any]:
        value = self.get(column)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        found = value_in(value) if isinstance(value, str) else value
        if not isinstance(found, list | tuple):
            raise self.wrong(column, "a list", value)
        return found

    def ids(self, column: str) -> np.ndarray:
        return token_ids(self, column, self.get(column))

    def system(self) -> str:
        """The `system` column: a text, or the one message that says it."""
        value = self.get("system")
        if value is None or isinstance(value, str):
            return value or ""
        turns = text_or_turns(self, "system", value)
        if len(turns) > 1:
            raise self.wrong("system", "text or one message", value)
        return "".join(t["content"] for t in turns if isinstance(t, Mapping))

    def tools(self) -> tuple[Mapping[str, Any], ...] | None:
        """The `tools` column: a list of objects, or the text of one, whole or one by one."""
        value = self.get("tools")
        if isinstance(value, str):
            if not value.strip():
                return None
            value = value_in(value)
        if value is None and self.get("tools") is None:
            return None
        if isinstance(value, np.ndarray):
            value = value.tolist()
        tools = [value] if isinstance(value, Mapping) else value
        if isinstance(tools, list | tuple):
            tools = [_decoded(v) for v in tools]
            if all(isinstance(v, Mapping) for v in tools):
                return tuple(_tool(without_nulls(v)) for v in tools) or None
        raise self.wrong("tools", "a list of tools", self.get("tools"))

    def refuse_media(self, contents: Sequence[Content]) -> None:
        """Raises SetAside where text points at pictures that stand in a column of their own."""
        for medium in _MEDIA:
            for column in (medium, f"{medium}s"):
                value = self.get(column)
                if value is not None and value != [] and _points_at(medium, contents):
                    raise SetAside(NOT_TEXT, f'<{medium}> in the text, column "{column}"')


def _points_at(medium: str, contents: Sequence[Content]) -> bool:
    mark = f"<{medium}>"
    return any(
        mark in (c if isinstance(c, str) else "".join(str(t["content"]) for t in c))
        for c in contents
        if not isinstance(c, np.ndarray)
    )


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool whose parameters are an object: tables keep objects of many kinds as their text."""
    function = tool.get("function")
    if isinstance(function, Mapping):
        return {**tool, "function": _tool(function)}
    if "parameters" not in tool:
        return tool
    return {**tool, "parameters": _decoded(tool["parameters"])}


def _decoded(value: Any) -> Any:
    """What a text says as an object or list, or the value as it is."""
    found = value_in(value) if isinstance(value, str) else None
    return value if found is None else found


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
    """Text, or turns: a list of messages, a single one, or an object that holds a list of them.

    Raises SetAside for content that is not text.
    """
    if isinstance(value, str):
        return value
    value = conversation_in(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return (_turn(row, column, value, 1),)
    if isinstance(value, list | tuple):
        return tuple(_turn(row, column, v, n) for n, v in enumerate(value, start=1))
    raise row.wrong(column, "text or a list of messages", value)


def _turn(row: Row, column: str, value: Any, place: int) -> Message:
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
    muted = _muted(row, column, rest, known)
    if calls := _calls_of(rest):
        rest["tool_calls"] = calls
    content = _content(row, column, value.get(text_key), rest, f'column "{column}", turn {place}')
    if role.strip().lower() in ("function_call", "tool_call") and (calls := _calls(content)):
        content, rest = "", {"tool_calls": calls, **rest}
    turn = {"role": known, "content": content, **rest}
    return {**turn, MUTED: False} if muted else turn


def _muted(row: Row, column: str, rest: dict[str, Any], role: str) -> bool:
    """Whether a turn is not to be learned. Takes out of `rest` what says so."""
    muted = False
    for name in _WEIGHTS:
        weight = rest.get(name)
        if isinstance(weight, bool) or (isinstance(weight, int | float) and weight in (0, 1)):
            del rest[name]
            muted |= not weight
        elif weight is not None and role == "assistant":
            raise row.error(
                column,
                f'"{name}" of a message is 0 or 1, false or true, found {describe(weight)}; the '
                'column "weight" weighs a row',
            )
    return muted and role == "assistant"


def is_muted(turn: Message) -> bool:
    """Whether a turn of the assistant is read, but not to be learned."""
    return turn.get(MUTED) is False


def unmuted(turns: Turns) -> Turns:
    """Turns of a prompt, where nothing is learned anyway."""
    if not any(map(is_muted, turns)):
        return turns
    return tuple({k: v for k, v in t.items() if k != MUTED} for t in turns)


def _content(row: Row, column: str, value: Any, rest: Mapping[str, Any], where: str) -> str:
    """What a turn says, its parts joined."""
    if isinstance(value, str):
        return value
    if value is None and rest.get("tool_calls"):
        return ""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    parts = [value] if isinstance(value, Mapping) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(p, str | Mapping) for p in parts):
        raise row.error(column, f'a message needs "content" as text, found {describe(value)}')
    return "".join(_part(p, f"{where}, part {n}") for n, p in enumerate(parts, start=1))


def _part(part: str | Mapping[str, Any], where: str) -> str:
    if isinstance(part, str):
        return part
    kind, text = part.get("type"), part.get("text")
    if isinstance(text, str) and (kind is None or str(kind).endswith("text")):
        return text
    raise SetAside(
        NOT_TEXT, f"{where} is {describe(part) if kind is None else f'of type {kind!r}'}"
    )


def _calls_of(rest: dict[str, Any]) -> list[Any]:
    """The calls of a turn, arguments as objects; OpenAI's older `function_call` is one of them."""
    older = rest.get("function_call")
    if isinstance(older, Mapping) and not rest.get("tool_calls"):
        del rest["function_call"]
        return [{"type": "function", "function": _call(older)}]
    calls = _decoded(rest.get("tool_calls"))
    calls = [calls] if isinstance(calls, Mapping) else calls
    return [_call(_decoded(c)) for c in calls] if isinstance(calls, list | tuple) else []


def _call(call: Any) -> Any:
    """A call whose arguments are an object: the APIs give them as JSON text."""
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _call(call["function"])}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return call
    found = {} if not arguments.strip() else value_in(arguments)
    return {**call, "arguments": found} if isinstance(found, Mapping) else call


def _calls(content: str) -> list[dict[str, Any]]:
    """ShareGPT writes a call as the JSON text of {name, arguments}, or of a list of them."""
    value = value_in(content)
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        return []
    return [
        {
            "type": "function",
            "function": _call({"name": c["name"], "arguments": c.get("arguments", {})}),
        }
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
    return all(_silent(t) for t in content if t["role"] == "assistant" and not is_muted(t))


def _silent(turn: Message) -> bool:
    return not turn["content"].strip() and not turn.get("tool_calls")


def same(one: Content, other: Content) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    return not isinstance(other, np.ndarray) and one == other
