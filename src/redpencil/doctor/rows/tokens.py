"""What only token ids show: text that is lost, a start too many, an end that is missing."""

from collections import Counter
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

from redpencil.data.notes import Notes
from redpencil.doctor.findings import Finding
from redpencil.doctor.tally import Kind, Tally, excerpt, rows_of
from redpencil.types import Example

LOSSY = Kind(
    key="lossy-tokenizer",
    group="structure",
    severity="error",
    title="The tokenizer loses text",
    why="The ids do not decode back to the text, so the model never sees what it should learn.",
    advice="Use a model whose tokenizer knows these characters.",
)
LITERAL = Kind(
    key="special-token-text",
    group="structure",
    severity="warning",
    title="Special tokens written out in the text",
    why="The tokenizer reads such text as the token itself: an end of text inside an answer is a "
    "real end for the model.",
    advice="Take them out (--fix OUT.jsonl does at the ends of answers).",
)
DOUBLE_START = Kind(
    key="double-bos",
    group="structure",
    severity="warning",
    title="Two start tokens",
    why="The model was pre-trained with one; with two it starts from a place it never saw.",
    advice="Take the start token out of the data: the tokenizer or the template puts it there.",
)
NO_END = Kind(
    key="missing-end",
    group="structure",
    severity="warning",
    title="Responses without an end token",
    why="A model that is never shown an end does not learn to stop.",
    advice="End responses_ids, chosen_ids, rejected_ids with the end-of-turn token. If answers "
    "were cut off, leave them out.",
)
CUT_OFF = Kind(
    key="cut-off",
    group="structure",
    severity="warning",
    title="Answers that look cut off",
    why="Many answers have exactly the greatest length, as a generation limit leaves them; with an "
    "end token behind it, a broken-off sentence is taught as a good end.",
    advice="Ask for them again with a greater limit, or leave them out.",
)
SHORTENED = Kind(
    key="shortened-prompt",
    group="structure",
    severity="note",
    title="Prompts that lose their beginning",
    why="A prompt without its beginning may be another question.",
    advice="Nothing must be done if the end of a prompt says what is asked; else raise "
    "--max-length, as far as the model takes it, or leave these rows out.",
)
_LONG = 32
"""Tokens from which answers of one length are a limit rather than a short form."""


class Starts:
    """Examples that begin with two start tokens, or have one at the head of a response."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._bos: int | None = tokenizer.bos_token_id
        self._is_end = tokenizer.bos_token_id == tokenizer.eos_token_id
        self._tally = Tally()

    def see_example(self, example: Example) -> None:
        if self._bos is None:
            return
        twice = example.prompt_ids[:2].tolist() == [self._bos, self._bos]
        heads = (r.ids[0] == self._bos for r in example.responses if len(r.ids) > 1)
        if twice or (not self._is_end and any(heads)):
            where = "the prompt begins with two" if twice else "a response begins with one"
            self._tally.add(example.responses[0].origin, where)

    def findings(self, total: int) -> Iterable[Finding]:
        if self._tally.count:
            said = f"{rows_of(self._tally.count, total)} have a start token too many."
            yield DOUBLE_START.finding(self._tally, total, said)


class Ends:
    """Responses whose last token is no special one, and a heap of responses of one length.

    Memory: one number for each length that occurs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._ends = added | set(tokenizer.all_special_ids)
        self._open = Tally()
        self._lengths: Counter[int] = Counter()
        self._longest = 0
        self._at_longest = Tally()

    def see_example(self, example: Example) -> None:
        for response in example.responses:
            origin, length = response.origin, len(response.ids)
            self._lengths[length] += 1
            if length > self._longest:
                self._longest, self._at_longest = length, Tally()
            if length == self._longest:
                self._at_longest.add(origin, f"{length:,} tokens")
        if any(int(r.ids[-1]) not in self._ends for r in example.responses if len(r.ids)):
            self._open.add(example.responses[0].origin)

    def findings(self, total: int) -> Iterable[Finding]:
        if self._open.count:
            said = f"{rows_of(self._open.count, total)} have a response that does not end."
            yield NO_END.finding(self._open, total, said)
        heap, longest = self._at_longest.count, self._longest
        below = [n for length, n in self._lengths.items() if 0.8 * longest <= length < longest]
        responses = self._lengths.total()
        expected = sum(below) / max(1.0, 0.2 * longest)
        if (
            longest >= _LONG
            and len(self._lengths) >= 20
            and 0.02 * responses <= heap <= 0.5 * responses
            and heap >= max(10, 5 * expected)
        ):
            said = (
                f"{rows_of(heap, responses, 'response')} have exactly {longest:,} tokens, the most "
                f"there are; of each length a little below, there are {expected:.1f}."
            )
            yield CUT_OFF.finding(self._at_longest, responses, said)


SEAMS = Kind(
    key="runs-together",
    group="structure",
    severity="warning",
    title="Prompt and answer run together",
    why="Without a chat template they are put together as they stand: where a word or a token "
    "reaches over the border, the model learns to go on in the midst of it.",
    advice="--separator ' ' puts a space between them, --separator '\\n' a line break; or give a "
    "chat template.",
)


def noted(notes: Notes, total: int, max_length: int) -> Iterator[Finding]:
    """What was counted while the token ids were made."""
    if notes.lossy:
        example = notes.first_loss.partition(": ")[2]
        tally = Tally(notes.lossy, list(notes.lossy_rows), excerpt(example))
        said = f"{rows_of(notes.lossy, total)} do not come back from their ids as they were."
        yield LOSSY.finding(tally, total, said)
    if notes.seams_matter:
        example = notes.first_seam.partition(": ")[2]
        tally = Tally(notes.seams, list(notes.seam_rows), excerpt(example))
        said = f"{rows_of(notes.seams, total)} have nothing between prompt and answer."
        yield SEAMS.finding(tally, total, said)
    if notes.shortened:
        tally = Tally(notes.shortened, list(notes.shortened_rows))
        rows = rows_of(notes.shortened, total)
        said = f"{rows} fit {max_length:,} tokens only without the beginning of their prompt."
        yield SHORTENED.finding(tally, total, said)
    if notes.literals:
        tally = Tally(notes.literals, list(notes.literal_rows), notes.first_literal.split()[0])
        said = f"{rows_of(notes.literals, total)} have the text of a special token."
        yield LITERAL.finding(tally, total, said)
