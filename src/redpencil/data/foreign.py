"""Shapes that others write: a table of what columns they have, and what their rows become.

A row of the table names the columns that must be there, with the kinds of value that most of their
rows hold, and a function from a row to columns of ours. Adding a shape is adding a row. Where two
answers stand side by side, `WINNERS` says how the column is called that names the better one; what
several annotators said becomes a probability, in which a tie counts one half.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, product

from redpencil.data.casts import (
    ANSWER,
    ANSWERS,
    ASKED,
    SCORES,
    SINGLE_GRADES,
    WINNERS,
    Cast,
    Cells,
    after_answer,
    alpaca,
    input_object,
    instruction,
    objects,
    one_grade,
    one_hot,
    renamed,
    scored,
    shp,
    summaries,
    two_outputs,
    winner,
)
from redpencil.data.contents import Row
from redpencil.data.shapes import (
    ANSWERED,
    MESSAGE,
    NUMBER,
    NUMERAL,
    OBJECT,
    OBJECTS,
    OPEN,
    SHAPES,
    TEXT,
    TEXTS,
    TRANSCRIPT,
    TRUTH,
    Kinds,
    Shape,
)

Wanted = Mapping[str, tuple[str, ...]]

ANY: tuple[str, ...] = ()
PLAIN = (TEXT, NUMERAL)
WORDS = (TEXT, NUMERAL, TRANSCRIPT)
TURNS = (OPEN, ANSWERED)
SAID = (*WORDS, *TURNS, MESSAGE)
NUMBERS = (NUMBER, NUMERAL)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A shape of others.

    columns: what must occur, and of which kinds most values are (none: any). becomes: the columns
    of our shape. optional: columns that are read where they are. without: columns that make the
    data something else. nullable: needed, but a row may lack it. graded: `score` of the rows made
    is a grade of one response, by which rows with the same prompt are compared.
    """

    name: str
    columns: Wanted
    becomes: tuple[str, ...]
    cast: Cast
    optional: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    nullable: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    """What the objects of the first column of objects must have."""
    by: str = ""
    """The judgement of a shape with several responses."""
    graded: bool = False

    @property
    def shape(self) -> Shape:
        return next(s for s in SHAPES if s.columns == self.becomes)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.columns) | frozenset(self.optional)

    @property
    def needed(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name not in self.nullable)

    def fits(self, present: frozenset[str], kinds: Kinds) -> bool:
        """Whether data with these columns and kinds of values are of this shape."""
        if not present.issuperset(self.columns) or not present.isdisjoint(self.without):
            return False
        if any(wanted and kinds.of(name) not in wanted for name, wanted in self.columns.items()):
            return False
        listed = (n for n in self.columns if kinds.of(n) in (OBJECT, OBJECTS))
        inner = kinds.fields.get(next(listed, ""), frozenset())
        return not self.fields or inner.issuperset(self.fields)

    def made(self, row: Row, kinds: Kinds) -> Cells:
        """The row under our names, with its other columns. Raises SetAside, DataError."""
        reads = self.reads
        rest = {name: value for name, value in row.cells.items() if name not in reads}
        return rest | self.cast(row, kinds)


# The table ----------------------------------------------------------------------------------------

PAIR = ("prompt", "chosen", "rejected")
SIDES = ("chosen", "rejected")
RANKED = ("prompt", "responses")
SINGLE = ("prompt", "completion")
LABELLED = ("prompt", "completion", "label")
ALPACA = ("input", "history")


def _side_by_side(present: frozenset[str]) -> Iterator[Foreign]:
    """Two answers in columns of their own, for each way in which these columns can be read so."""
    for asked, names in product(ASKED, (n for n in ANSWERS if present.issuperset(n))):
        talk = names[0].startswith("conversation")
        if asked not in present and not (talk and asked == ASKED[0]):
            continue
        begin: Wanted = (
            dict.fromkeys(names, TURNS) if talk else {asked: ANY, **dict.fromkeys(names, SAID)}
        )
        asked = "" if talk else asked
        optional = ALPACA if asked == "instruction" else ()
        becomes = SIDES if talk else PAIR
        for column in WINNERS:
            yield Foreign(
                f'{names[0]} / {names[1]}, the better one named by "{column}"',
                {**begin, column: ANY},
                becomes,
                winner(asked, names, column),
                optional,
                without=SIDES,
                nullable=(column,),
            )
        for score, between in product(SCORES, ("_", "")):
            one, two = (f"{score}{between}{name[-1]}" for name in names)
            yield Foreign(
                f"{names[0]} / {names[1]}, compared by {one} and {two}",
                {**begin, one: NUMBERS, two: NUMBERS},
                becomes,
                scored(asked, names, (one, two), count=score == "votes"),
                optional,
                without=SIDES,
                nullable=(one, two),
            )


FIRST: tuple[Foreign, ...] = (
    Foreign(
        "SHP",
        {"history": WORDS, "human_ref_A": WORDS, "human_ref_B": WORDS, "labels": NUMBERS},
        PAIR,
        shp,
        without=SIDES,
    ),
    Foreign(
        "arena with a column for each outcome",
        {
            "prompt": ANY,
            **dict.fromkeys(("response_a", "response_b"), SAID),
            **dict.fromkeys(("winner_model_a", "winner_model_b", "winner_tie"), NUMBERS),
        },
        PAIR,
        one_hot,
        without=SIDES,
    ),
    Foreign(
        "TL;DR comparisons",
        {"info": (OBJECT,), "summaries": (OBJECTS,), "choice": NUMBERS},
        PAIR,
        summaries,
    ),
)
"""Before any two answers side by side."""

TABLE: tuple[Foreign, ...] = (
    Foreign(
        "UltraFeedback",
        {"instruction": WORDS, "completions": (OBJECTS,)},
        RANKED,
        objects("instruction", "completions", "response", "overall_score", "scores"),
        fields=("response", "overall_score"),
        by="scores",
    ),
    Foreign(
        "Nectar",
        {"prompt": ANY, "answers": (OBJECTS,)},
        RANKED,
        objects("prompt", "answers", "answer", "rank", "ranking"),
        fields=("answer", "rank"),
        by="ranking",
    ),
    Foreign(
        "responses_and_scores",
        {"user_input": WORDS, "responses_and_scores": (OBJECTS,)},
        RANKED,
        objects("user_input", "responses_and_scores", "response", "score", "scores"),
        fields=("response", "score"),
        by="scores",
    ),
    Foreign(
        "OpenAI's preferences",
        {"input": (OBJECT,), "preferred_output": ANY, "non_preferred_output": ANY},
        PAIR,
        input_object,
    ),
    Foreign(
        "ms-swift's pairs",
        {"messages": (ANSWERED,), "rejected_response": SAID},
        PAIR,
        after_answer,
        without=("prompt", "chosen", "rejected", "label"),
    ),
    Foreign(
        "ms-swift's pairs",
        {"messages": (ANSWERED,), "rejected_messages": (ANSWERED,)},
        SIDES,
        renamed(chosen="messages", rejected="rejected_messages"),
        without=("prompt", "chosen", "rejected", "label"),
    ),
    Foreign(
        "axolotl's pairs: messages are the prompt",
        {"messages": (OPEN,), "chosen": SAID, "rejected": SAID},
        PAIR,
        renamed(prompt="messages", chosen="chosen", rejected="rejected"),
        without=("prompt", "conversations"),
    ),
    Foreign(
        "Alpaca pairs",
        {"instruction": PLAIN, "chosen": SAID, "rejected": SAID},
        PAIR,
        alpaca(chosen="chosen", rejected="rejected"),
        ALPACA,
        without=("prompt", "conversations", "messages"),
    ),
    Foreign(
        "Alpaca pairs, output: [better, worse]",
        {"instruction": PLAIN, "output": (TEXTS,)},
        PAIR,
        two_outputs,
        ALPACA,
        without=("prompt", *SIDES),
    ),
    Foreign(
        "Orca's pairs",
        {"question": PLAIN, "chosen": SAID, "rejected": SAID},
        PAIR,
        renamed(prompt="question", chosen="chosen", rejected="rejected"),
        without=("prompt", "conversations", "messages", "instruction"),
    ),
    Foreign(
        "pairs of j (better) and k",
        {"question": WORDS, "response_j": WORDS, "response_k": WORDS},
        PAIR,
        renamed(prompt="question", chosen="response_j", rejected="response_k"),
        without=("prompt", *SIDES),
    ),
    Foreign(
        "Alpaca with a label",
        {"instruction": PLAIN, "output": WORDS, "kto_tag": (TRUTH, *NUMBERS, TEXT)},
        LABELLED,
        alpaca(completion="output", label="kto_tag"),
        ALPACA,
        without=("prompt", "label"),
    ),
    Foreign(
        "conversations with a label",
        {"conversations": TURNS, "kto_tag": (TRUTH, *NUMBERS, TEXT)},
        ("conversations", "label"),
        renamed(conversations="conversations", label="kto_tag"),
        without=("prompt", "label", *SIDES),
    ),
    Foreign(
        "messages with a label",
        {"messages": TURNS, "kto_tag": (TRUTH, *NUMBERS, TEXT)},
        ("messages", "label"),
        renamed(messages="messages", label="kto_tag"),
        without=("prompt", "label", *SIDES),
    ),
    *(
        Foreign(
            f'one response a row, rows with the same prompt compared by "{grade}"',
            {asked: WORDS, answer: WORDS, grade: NUMBERS},
            LABELLED,
            one_grade(asked, answer, grade),
            ALPACA if asked == "instruction" else (),
            without=("label", "kto_tag", *SIDES),
            nullable=(grade,),
            graded=True,
        )
        for grade in SINGLE_GRADES
        for asked in ("prompt", "question", "instruction", "query")
        for answer in ANSWER
    ),
    Foreign(
        "Alpaca",
        {"instruction": PLAIN, "output": WORDS},
        SINGLE,
        alpaca(completion="output"),
        ALPACA,
        without=("prompt", "label", "kto_tag", *SIDES),
    ),
    Foreign(
        "Dolly",
        {"instruction": PLAIN, "context": PLAIN, "response": WORDS},
        SINGLE,
        lambda row, kinds: {
            "prompt": instruction(row, "context"),
            "completion": row.get("response"),
        },
        without=("prompt", "label", *SIDES),
        nullable=("context",),
    ),
)


def foreign_of(present: frozenset[str], kinds: Kinds) -> Foreign | None:
    """The first shape of others that data with these columns and kinds of values have."""
    possible = chain(FIRST, _side_by_side(present), TABLE)
    return next((f for f in possible if f.fits(present, kinds)), None)


def undecided(present: frozenset[str]) -> str:
    """Two answers side by side that nothing compares, as a sentence; empty where there are none."""
    lowered = {name.lower(): name for name in present}
    for names in ANSWERS:
        found = [lowered.get(name.lower()) for name in names]
        if all(found):
            return (
                f'"{found[0]}" and "{found[1]}" stand side by side, and no column says which is '
                f"better; name it one of {', '.join(WINNERS)}, or write the two as chosen and "
                "rejected"
            )
    return ""
