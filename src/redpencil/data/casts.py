"""Rows of others as ours: what was asked, who won, and what many answers are worth.

Each cast makes the columns of a shape of ours from a row of theirs. Of two answers side by side, a
judgement names the better one: by its column, by a letter or a number, or by grades for each. What
several annotators said becomes a probability, in which a tie counts one half. A row in which
nothing is decided is set aside; a judgement that can mean either is refused with its row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redpencil.data.contents import Row, SetAside
from redpencil.data.shapes import Kinds

TIED = "all responses tied"
UNJUDGED = "fewer than two judged responses"

Cells = dict[str, Any]
Cast = Callable[[Row, Kinds], Cells]


def renamed(**ours: str) -> Cast:
    """Columns of ours from theirs, as they are."""
    return lambda row, kinds: {our: row.get(their) for our, their in ours.items()}


# Prompts ------------------------------------------------------------------------------------------


def instruction(row: Row, *more: str) -> Any:
    """Alpaca's prompt: the instruction, a line break, the input; `history` are rounds before it."""
    said = [row.get(name) for name in ("instruction", *more)]
    for name, part in zip(("instruction", *more), said, strict=True):
        if part is not None and not isinstance(part, str):
            raise row.wrong(name, "text", part)
    text = "\n".join(part for part in said if part and part.strip())
    history = row.get("history") if "history" not in more else None
    if not history:
        return text
    if not isinstance(history, list | tuple) or not all(_is_round(r) for r in history):
        raise row.wrong("history", "a list of [question, answer]", history)
    before = [
        {"role": role, "content": part}
        for question, answer in history
        for role, part in (("user", question), ("assistant", answer))
    ]
    return [*before, {"role": "user", "content": text}]


def _is_round(value: Any) -> bool:
    texts = isinstance(value, list | tuple) and len(value) == 2
    return texts and all(isinstance(part, str) for part in value)


def alpaca(**ours: str) -> Cast:
    return lambda row, kinds: {
        "prompt": instruction(row, "input"),
        **{our: row.get(their) for our, their in ours.items()},
    }


def two_outputs(row: Row, kinds: Kinds) -> Cells:
    said = row.sequence("output")
    if len(said) != 2:
        raise row.error("output", f"wanted [better, worse], found {len(said)} texts")
    return {"prompt": instruction(row, "input"), "chosen": said[0], "rejected": said[1]}


def after_answer(row: Row, kinds: Kinds) -> Cells:
    """ms-swift: the conversation's last answer is the better one."""
    turns = list(row.sequence("messages"))
    if not turns:
        raise SetAside("empty prompt", "no messages")
    return {"prompt": turns[:-1], "chosen": turns[-1:], "rejected": row.get("rejected_response")}


def input_object(row: Row, kinds: Kinds) -> Cells:
    given = row.get("input")
    if not isinstance(given, Mapping) or "messages" not in given:
        raise row.wrong("input", "an object with messages", given)
    made = {
        "prompt": given["messages"],
        "chosen": row.get("preferred_output"),
        "rejected": row.get("non_preferred_output"),
    }
    return made | ({"tools": given["tools"]} if given.get("tools") else {})


def _post(row: Row, info: Mapping[str, Any]) -> str:
    """The prompt of TL;DR, as its authors wrote it."""
    if info.get("article"):
        return f"{info['article']}\n\nTL;DR:"
    head = "".join(
        f"{label}: {before}{info[name]}\n\n"
        for label, before, name in (("SUBREDDIT", "r/", "subreddit"), ("TITLE", "", "title"))
        if info.get(name)
    )
    if not isinstance(info.get("post"), str):
        raise row.wrong("info", "an object with a post", info)
    return f"{head}POST: {info['post']}\n\nTL;DR:"


# Two answers and who won --------------------------------------------------------------------------

TIES = frozenset(
    [
        *("tie", "tie (bothbad)", "tie(bothbad)", "bothbad", "both_bad", "both bad", "both"),
        *("neither", "equal", "draw", "same", "c", "[[c]]"),
    ]
)
_STEMS = ("completion", "response", "answer", "output", "text", "summary", "generation")
ANSWERS = (
    *(
        (f"{stem}{a}", f"{stem}{b}")
        for stem in _STEMS
        for a, b in (("_a", "_b"), ("_A", "_B"), ("_1", "_2"), ("1", "2"), ("_0", "_1"))
    ),
    ("human_ref_A", "human_ref_B"),
    ("conversation_a", "conversation_b"),
)
"""Two columns with an answer each."""
ASKED = ("prompt", "question", "instruction", "context", "history", "query", "post", "input")
"""The column with what they answer."""
SIGNED = ("individual_preference", "overall_preference", "preference_strength")
"""Grades from one answer to the other: below 0 the first is better, above it the second."""
WINNERS = (
    *SIGNED,
    *("preference", "preferred", "winner", "choice", "better_response_id", "better", "best"),
    *("vote", "votes", "labels", "label", "annotations", "preferences", "judgments", "verdict"),
)
"""The column that says which is better, or that holds what several annotators said."""
SCORES = ("score", "rating", "votes", "reward", "grade")
"""What a number for each answer may be called: score_a and score_b."""
SINGLE_GRADES = ("helpfulness", "overall_score", "score", "rating", "reward", "quality", "grade")
"""What the grade of a single answer may be called, the likeliest first."""
ANSWER = ("response", "completion", "answer", "output")


def _suffix(name: str) -> str:
    return name[-1].lower()


def _share(row: Row, column: str, said: Any, names: tuple[str, str], kinds: Kinds) -> float:
    """How much one judgement is for the first of two answers: 1, 0, or a half for a tie."""
    word = str(said).strip().lower()
    if isinstance(said, bool) or said is None:
        raise row.wrong(column, f"which of {names[0]} and {names[1]} is better", said)
    if word in TIES:
        return 0.5
    for name, share in zip(names, (1.0, 0.0), strict=True):
        end, stem = _suffix(name), name[:-1].rstrip("_").lower()
        own = {name.lower(), f"{stem} {end}", f"model_{end}", f"model {end}", f"[[{end}]]"}
        own |= {f"{other}_{end}" for other in ("response", "output", "answer", "completion")}
        if word in own | ({end} if end.isalpha() else set()):
            return share
    if word in ("first", "left", "second", "right"):
        return float(word in ("first", "left"))
    try:
        number = float(word)
    except ValueError:
        raise row.wrong(column, f"{names[0]}, {names[1]} or tie", said) from None
    if column in SIGNED:
        return 0.5 if number == 0 else float(number < 0)
    return _numbered(row, column, number, names, kinds)


def _numbered(row: Row, column: str, number: float, names: tuple[str, str], kinds: Kinds) -> float:
    """A judgement that is a number: that of the answer, or between both where they share it."""
    low = _suffix(names[0])
    reached = any(_above_one(word) for word in kinds.words.get(column, ()))
    if low != "0" and not reached:
        what = "no value goes beyond 1" if low == "1" else "it is no name"
        raise row.error(
            column,
            f"{number:g} does not say whether {names[0]} or {names[1]} is better ({what}); write "
            f'"{names[0]}" or "{names[1]}", or the two as chosen and rejected',
        )
    first = 0.0 if low == "0" else 1.0
    if first == 1.0 and number == 0.0:
        return 0.5
    if not first <= number <= first + 1.0:
        raise row.error(column, f"{number:g} is neither {names[0]} nor {names[1]}")
    return first + 1.0 - number


def _above_one(word: str) -> bool:
    try:
        return 1.0 < float(word) <= 2.0
    except ValueError:
        return False


def _votes(row: Row, column: str, names: tuple[str, str], kinds: Kinds) -> float:
    """The share of the first answer in all that was said of the two."""
    said = row.get(column)
    if said is None:
        raise SetAside(UNJUDGED, f'nothing in "{column}"')
    if not isinstance(said, list | tuple):
        return _share(row, column, said, names, kinds)
    inside = [_vote(vote, column) for vote in said]
    judged = [vote for vote in inside if vote is not None]
    if not judged:
        raise SetAside(UNJUDGED, f'nothing in "{column}"')
    return sum(_share(row, column, vote, names, kinds) for vote in judged) / len(judged)


def _vote(vote: Any, column: str) -> Any:
    """What one annotator said; of an object the field that says it."""
    if not isinstance(vote, Mapping):
        return vote
    names = ("score", *WINNERS) if column in SIGNED else (*WINNERS, "score")
    return next((vote[name] for name in names if vote.get(name) is not None), None)


def _decided(row: Row, answers: Sequence[Any], share: float, *, sure: bool) -> Cells:
    """Chosen and rejected; with a probability where judges disagree. Raises SetAside for ties."""
    if share == 0.5:
        raise SetAside(TIED, "a tie")
    chosen, rejected = answers if share > 0.5 else reversed(answers)
    made = {"chosen": chosen, "rejected": rejected}
    return made if sure or share in (0.0, 1.0) else made | {"probability": max(share, 1 - share)}


def winner(asked: str, names: tuple[str, str], column: str) -> Cast:
    def cast(row: Row, kinds: Kinds) -> Cells:
        share = _votes(row, column, names, kinds)
        return _prompt(row, asked) | _decided(row, [row.get(n) for n in names], share, sure=False)

    return cast


def _prompt(row: Row, asked: str) -> Cells:
    if not asked:
        return {}
    value = row.get(asked)
    if asked == "instruction":
        return {"prompt": instruction(row, "input")}
    if isinstance(value, Mapping) and isinstance(value.get("full_text"), str):  # WebGPT
        value = value["full_text"]
    return {"prompt": value}


def scored(asked: str, names: tuple[str, str], scores: tuple[str, str], *, count: bool) -> Cast:
    """The answer with more is better; counted votes say how sure that is."""

    def cast(row: Row, kinds: Kinds) -> Cells:
        found = [_number(row, name) for name in scores]
        if None in found:
            raise SetAside(UNJUDGED, "no score")
        a, b = (float(value) for value in found if value is not None)
        if count and min(a, b) < 0:
            raise row.error(scores[0], "a number of votes is at least 0")
        share = 0.5 if a == b else a / (a + b) if count else float(a > b)
        answers = [row.get(name) for name in names]
        return _prompt(row, asked) | _decided(row, answers, share, sure=not count)

    return cast


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = float(value)
        except ValueError:
            raise row.wrong(name, "a number", value) from None
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise row.wrong(name, "a number", value)
    return value


def one_hot(row: Row, kinds: Kinds) -> Cells:
    names = ("winner_model_a", "winner_model_b", "winner_tie")
    said = [_number(row, name) or 0 for name in names]
    if sum(said) != 1 or max(said) != 1:
        raise row.error(names[0], "of winner_model_a, winner_model_b and winner_tie one is 1")
    share = (1.0, 0.0, 0.5)[said.index(1)]
    answers = [row.get("response_a"), row.get("response_b")]
    return {"prompt": row.get("prompt"), **_decided(row, answers, share, sure=True)}


def shp(row: Row, kinds: Kinds) -> Cells:
    """SHP's own coding: 1 where A is preferred."""
    label = _number(row, "labels")
    if label not in (0, 1):
        raise row.wrong("labels", "1 (A is better) or 0 (B is better)", row.get("labels"))
    answers = [row.get("human_ref_A"), row.get("human_ref_B")]
    return {"prompt": row.get("history"), **_decided(row, answers, float(label), sure=True)}


def summaries(row: Row, kinds: Kinds) -> Cells:
    info, choice = row.get("info"), _number(row, "choice")
    texts = [s.get("text") if isinstance(s, Mapping) else s for s in row.sequence("summaries")]
    if not isinstance(info, Mapping) or len(texts) != 2:
        raise row.error("summaries", f"wanted two summaries, found {len(texts)}")
    if choice not in (0, 1):
        raise row.wrong("choice", "0 or 1", row.get("choice"))
    choice = int(choice)
    return {"prompt": _post(row, info), "chosen": texts[choice], "rejected": texts[1 - choice]}


# Many answers -------------------------------------------------------------------------------------


def objects(asked: str, column: str, text: str, judged: str, ours: str) -> Cast:
    def cast(row: Row, kinds: Kinds) -> Cells:
        items = row.sequence(column)
        if not all(isinstance(item, Mapping) for item in items):
            raise row.wrong(column, "a list of objects", items)
        return {
            **_prompt(row, asked),
            "responses": [item.get(text) for item in items],
            ours: [item.get(judged) for item in items],
        }

    return cast


def one_grade(asked: str, answer: str, grade: str) -> Cast:
    def cast(row: Row, kinds: Kinds) -> Cells:
        value = _number(row, grade)
        if value is None:
            raise SetAside(UNJUDGED, f'nothing in "{grade}"')
        return {**_prompt(row, asked), "completion": row.get(answer), "score": value}

    return cast
