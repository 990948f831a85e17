"""What a row is made of, text or messages, and what was left out within rows."""

from collections.abc import Iterable, Iterator

from redpencil.data.judgements import BLANK, IDENTICAL, UNJUDGED
from redpencil.data.reading import ReadRow, Source
from redpencil.data.records import learns_nothing, unread_sentence
from redpencil.data.rows import CUT, HELD, SPACED, TRAILING
from redpencil.data.transcripts import NO_BREAKS, NO_SPACE
from redpencil.doctor.findings import Finding
from redpencil.doctor.tally import Kind, Tally, rows_of

FORMS = Kind(
    key="mixed-formats",
    group="structure",
    severity="warning",
    title="Text in some rows, messages in others",
    why="Without a chat template text is taken as it stands while messages become Human / "
    "Assistant transcripts: the model learns two formats.",
    advice="Write all rows in one form, or train with a chat template, which makes turns of both.",
)
UNUSED = Kind(
    key="unused-columns",
    group="structure",
    severity="note",
    title="Columns that training does not read",
    why="If one of them matters, training does not know it.",
    advice="Nothing must be done; --columns OURS=YOURS says which column is which.",
)
UNREAD = Kind(
    key="unread-text",
    group="structure",
    severity="warning",
    title="Text that training does not read",
    why="What is written there may be half of the prompt, or of the answer: training never sees "
    "it.",
    advice="Name the column with --columns OURS=YOURS, join it to the one it belongs to, or leave "
    "it out of the data.",
)
OTHERWISE = Kind(
    key="read-otherwise",
    group="structure",
    severity="note",
    title="Read otherwise than it stands",
    why="The file leaves no doubt about what is meant, so training reads it like this, too.",
    advice="Nothing must be done if that is what you mean.",
)
NOTHING = Kind(
    key="nothing-to-learn",
    group="preference",
    severity="error",
    title="Columns that take the lesson out of every row",
    why="Such a loss is constant: no weight of the model would change.",
    advice="Leave the column out, or fill it in.",
)
_WITHIN = {
    BLANK: ("blank-responses", "Empty responses among several"),
    UNJUDGED: ("unjudged-responses", "Responses without a score"),
    IDENTICAL: ("identical-comparisons", "Comparisons between identical responses"),
    TRAILING: ("trailing-turns", "Turns after the last answer"),
    CUT: ("guessed-prompt", "Prompts found by comparing both sides"),
    NO_SPACE: ("transcript-spaces", "Transcript turns without a space"),
    NO_BREAKS: ("transcript-breaks", "Transcripts without their first line breaks"),
    SPACED: ("prompt-spaces", "Prompts that differ by white space"),
    HELD: ("answer-in-prompt", "Answers at the end of the prompt"),
}
WRITTEN = ("written-messages", "Messages that are stored as text")


class FormCheck:
    """Counts rows of text and rows of messages. Memory does not grow with the rows."""

    def __init__(self) -> None:
        self._text = Tally()
        self._messages = Tally()

    def see_row(self, read: ReadRow) -> None:
        if read.record is None:
            return
        if isinstance(read.record.prompt, str):
            self._text.add(read.origin)
        elif isinstance(read.record.prompt, tuple):
            self._messages.add(read.origin)

    def findings(self, total: int) -> Iterable[Finding]:
        fewer, more = sorted((self._text, self._messages), key=lambda tally: tally.count)
        if fewer.count:
            what, other = ("text", "messages") if fewer is self._text else ("messages", "text")
            said = f"{rows_of(fewer.count, total)} are {what}; {more.count:,} are {other}."
            yield FORMS.finding(fewer, total, said)


def left_out(source: Source) -> Iterator[Finding]:
    """What reading the rows left out of them, and columns that nobody reads: notes."""
    for said, count in source.written.counted:
        yield _noted(WRITTEN, said, count, source.rows_read)
    for note, count in source.notes.items():
        yield _noted(_WITHIN[note], note.format(n=f"{count:,}"), count, source.rows_read)
    for remark in source.read_otherwise:
        said = f"{remark[0].upper()}{remark[1:]}."
        yield OTHERWISE.finding(Tally(source.rows_read), source.rows_read, said)
    for lost in learns_nothing(source):
        yield NOTHING.finding(Tally(source.rows_read), source.rows_read, f"Here {lost}.")
    texts = source.unread_text
    for name, count in texts.items():
        said = unread_sentence(name, count, source.rows_read)
        yield UNREAD.finding(Tally(count), source.rows_read, f"{said[0].upper()}{said[1:]}.")
    if unused := [name for name in source.unused_columns if name not in texts]:
        tally = Tally(source.rows_read)
        shown = ", ".join(unused[:20]) + ("" if len(unused) <= 20 else f" and {len(unused) - 20}")
        yield UNUSED.finding(tally, source.rows_read, f"Training does not read: {shown}.")


def _noted(named: tuple[str, str], said: str, count: int, total: int) -> Finding:
    key, title = named
    kind = Kind(
        key=key,
        group="structure",
        severity="note",
        title=title,
        why="It is read like this, and training learns from the rest of the row.",
        advice="Nothing must be done if that is what you mean.",
    )
    return kind.finding(Tally(count), total, f"{said[0].upper()}{said[1:]}.")
