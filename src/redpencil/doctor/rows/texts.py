"""What stands in the texts and does not belong there: leftovers, lost characters, non-answers."""

from collections import Counter
from collections.abc import Iterable, Iterator

from redpencil.data.reading import ReadRow, texts_of
from redpencil.doctor.findings import Finding
from redpencil.doctor.rows.patterns import (
    CONTROL,
    HEADING,
    MOJIBAKE,
    OTHER_SPEAKER,
    OWN_NAME,
    SCRIPT,
    UNSEEN,
    end_of_words,
    is_placeholder,
    tokens_in,
)
from redpencil.doctor.tally import Kind, Tally, excerpt, rows_of
from redpencil.types import Origin

LEFTOVER = Kind(
    key="template-text",
    group="structure",
    severity="warning",
    title="Template or end-of-text strings inside the text",
    why="The model learns to write them, and an end that stands in the text before the real one "
    "teaches it to go on after its end; a tokenizer that knows the string reads it as that token.",
    advice="--fix OUT.jsonl takes them off the ends of answers; look yourself at those in the "
    "middle. If the text is meant to be templated already, train with --chat-template none.",
)
SPEAKER = Kind(
    key="turn-marker",
    group="structure",
    severity="warning",
    title="Speakers' names inside an answer",
    why="The model learns to speak for the user after its answer, or to begin with its own name.",
    advice="Cut the answer where the other speaker begins, and leave the name off.",
)
LOST = Kind(
    key="replacement-character",
    group="structure",
    severity="warning",
    title="Replacement characters (U+FFFD)",
    why="A character was lost when the text was decoded, mostly where an answer was cut off in the "
    "middle of one; the model learns to write the sign for it.",
    advice="Read the texts anew from their source, as UTF-8.",
)
GARBLED = Kind(
    key="mojibake",
    group="structure",
    severity="warning",
    title="Garbled characters",
    why="UTF-8 was read as Latin-1 or Windows-1252, so that é became Ã©; the model learns it.",
    advice="Read the texts anew as UTF-8, or mend them (the Python package ftfy does).",
)
CONTROLS = Kind(
    key="control-character",
    group="structure",
    severity="warning",
    title="Control characters",
    why="Nobody typed them. A form feed in \\x0crac is \\frac whose backslash was read as the "
    "beginning of an escape, so text is lost.",
    advice="Escape backslashes where the file is written; take the characters out.",
)
HIDDEN = Kind(
    key="unseen-character",
    group="structure",
    severity="note",
    title="Characters that show nothing",
    why="Zero-width spaces, byte order marks and direction marks cost tokens, and make texts that "
    "look the same different.",
    advice="Take them out if they came with a web page or a file's beginning.",
)
PLACEHOLDER = Kind(
    key="placeholder-answer",
    group="preference",
    severity="warning",
    title="Answers that only say there is none",
    why="A stand-in for a missing answer is no answer: as chosen it teaches to say it, as rejected "
    "it makes the pair too easy to teach anything else.",
    advice="Leave these responses out, or ask for them again.",
)


class TextCheck:
    """Counts rows, whatever side of them a text is on. Memory does not grow with the rows."""

    def __init__(self) -> None:
        kinds = (LEFTOVER, SPEAKER, LOST, GARBLED, CONTROLS, HIDDEN, PLACEHOLDER)
        self._tallies = {kind.key: Tally() for kind in kinds}
        self._strings: Counter[str] = Counter()
        self._answers = Counter[str]()
        self._in_prompts = 0
        self._at_ends = 0

    def see_row(self, read: ReadRow) -> None:
        record = read.record
        if record is None:
            return
        prompt = list(texts_of(record.prompt))
        answers = [text for response in record.responses for text in texts_of(response)]
        self._see_leftovers(read.origin, prompt, answers)
        self._see_speakers(read.origin, prompt, answers)
        self._see_characters(read.origin, [*prompt, *answers])
        non_answers = [answer for answer in answers if is_placeholder(answer)]
        if non_answers:
            self._answers.update(answer.strip()[:30] for answer in non_answers)
            self._tallies[PLACEHOLDER.key].add(read.origin, excerpt(non_answers[0]))

    def _see_leftovers(self, origin: Origin, prompt: list[str], answers: list[str]) -> None:
        example = ""
        for text in answers:
            found = [(m.group(), m.start(), m.end()) for m in tokens_in(text)]
            if "###" in text:
                found += [(m.group(), m.start(), m.end()) for m in HEADING.finditer(text)]
                if "###" in text[end_of_words(text) :]:
                    at = text.rindex("###")
                    found.append(("### at the end", at, at + 3))
            if found:
                self._strings.update(name for name, _, _ in found)
                self._at_ends += end_of_words(text) < len(text)
                example = example or excerpt(text, *found[0][1:])
        in_prompt = [(text, m) for text in prompt for m in tokens_in(text)]
        if in_prompt:
            self._in_prompts += 1
            self._strings.update(m.group() for _, m in in_prompt)
            text, match = in_prompt[0]
            example = example or excerpt(text, match.start(), match.end())
        if example:
            self._tallies[LEFTOVER.key].add(origin, example)

    def _see_speakers(self, origin: Origin, prompt: list[str], answers: list[str]) -> None:
        for text in answers:
            match = OWN_NAME.match(text) or (":" in text and OTHER_SPEAKER.search(text)) or None
            if match and not any(SCRIPT.search(asked) for asked in prompt):
                example = excerpt(text, match.start(), match.end())
                self._tallies[SPEAKER.key].add(origin, example)
                return

    def _see_characters(self, origin: Origin, texts: list[str]) -> None:
        for key, example in _first_of_each(texts).items():
            self._tallies[key].add(origin, example)

    def findings(self, total: int) -> Iterable[Finding]:
        if (tally := self._tallies[LEFTOVER.key]).count:
            yield LEFTOVER.finding(tally, total, self._leftovers_said(tally, total))
        if (tally := self._tallies[PLACEHOLDER.key]).count:
            listed = ", ".join(f'"{a}" {n:,} times' for a, n in self._answers.most_common(3))
            yield PLACEHOLDER.finding(tally, total, f"{rows_of(tally.count, total)}: {listed}.")
        for kind, what in (
            (SPEAKER, "have a speaker's name in an answer"),
            (LOST, "have the sign for a lost character in their text"),
            (GARBLED, "have text that was decoded wrongly"),
            (CONTROLS, "have control characters in their text"),
            (HIDDEN, "have characters in their text that show nothing"),
        ):
            tally = self._tallies[kind.key]
            if tally.count:
                yield kind.finding(tally, total, f"{rows_of(tally.count, total)} {what}.")

    def _leftovers_said(self, tally: Tally, total: int) -> str:
        listed = ", ".join(f"{name} {n:,} times" for name, n in self._strings.most_common(5))
        ends = f"; {self._at_ends:,} answers end so" if self._at_ends else ""
        prompts = f"; {self._in_prompts:,} prompts have one" if self._in_prompts else ""
        return f"{rows_of(tally.count, total)}: {listed}{ends}{prompts}."


def _first_of_each(texts: Iterable[str]) -> dict[str, str]:
    """Which kinds of wrong characters the texts have, each with its first example."""
    found: dict[str, str] = {}
    for text in texts:
        for key, start, end in _wrong_characters(text):
            if key not in found:
                found[key] = excerpt(text, start, end)
    return found


def _wrong_characters(text: str) -> Iterator[tuple[str, int, int]]:
    ascii_only = text.isascii()
    garbled = None if ascii_only else MOJIBAKE.search(text)
    if garbled:
        yield GARBLED.key, garbled.start(), garbled.end()
    elif match := CONTROL.search(text):  # garbled text has them by its nature
        yield CONTROLS.key, match.start(), match.end()
    if ascii_only:
        return
    if (at := text.find("\ufffd")) >= 0:
        yield LOST.key, at, at + 1
    if match := UNSEEN.search(text):
        yield HIDDEN.key, match.start(), match.end()
