"""What a person should know about the tokenized data: counted while it is made, said in sentences.

Plain text whose prompt and response run together, rows whose text the tokenizer does not give back,
special tokens that stand as text in the data, shortened prompts, rows that came as token ids, a
tokenizer without an end token.
"""

import re
from collections.abc import Sequence

import numpy as np

from redpencil.data.assemble import Texts
from redpencil.data.encode import Encoder
from redpencil.data.render import Rendered, runs_together
from redpencil.types import Content, Origin, Record

BORDER = 32
"""Characters on both sides of the border between prompt and response that are looked at."""
LOOKED_AT = 20_000
"""Different borders that are looked at; a data set of more has long shown what it is."""
FEW = 0.05
"""Share of rows whose prompt may run into its response without a word: it may be meant."""
REMEMBERED = 20
"""Rows that are named; all are counted."""


class Notes:
    """Counters, with first rows and examples. `ready_ids` is set from outside."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.shortened = 0
        self.long_responses = 0
        self.ready_ids = 0
        self.literals = 0
        self.lossy = 0
        self.borders = 0
        self.seams = 0
        self.seam_rows: list[Origin] = []
        self.first_seam = ""
        self._looked_at: dict[tuple[str, str], bool] = {}
        self.literal_rows: list[Origin] = []
        self.lossy_rows: list[Origin] = []
        self.shortened_rows: list[Origin] = []
        self.first_literal = ""
        self.first_loss = ""
        tokens = [t for t in encoder.tokenizer.all_special_tokens if t]
        tokens += [t.content for t in encoder.tokenizer.added_tokens_decoder.values() if t.special]
        distinct = sorted(set(tokens), key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, distinct)) or r"(?!)")

    def shorten(self, origin: Origin) -> None:
        """Count a record that lost the beginning of its prompt."""
        self.shortened += 1
        _remember(self.shortened_rows, origin)

    def look_for_literals(self, record: Record) -> None:
        """Count a record that has a special token's text in its own text."""
        for content in (record.prompt, *record.responses):
            for text in _texts(content):
                if found := self._literal.search(text):
                    self.literals += 1
                    _remember(self.literal_rows, record.origin)
                    self.first_literal = self.first_literal or f"{found.group()} in {record.origin}"
                    return

    def check_texts(self, rows: Sequence[tuple[Origin, Rendered]], texts: Texts) -> None:
        """Count the records with a text that its ids do not decode to.

        An over-long record counts with its whole text. A response that several prompts share is
        checked behind the last of them.
        """
        prompts = list(texts.prompts)
        lost = self.encoder.lost_prompts(prompts, list(texts.prompts.values()))
        lost_prompts = {prompts[i] for i in lost}
        answers = {a.text: (a, row.prompt) for _, row in rows for a in row.responses}
        ids = {text: texts.response(answer) for text, (answer, _) in answers.items()}
        before = [texts.prompts[prompt] for _, prompt in answers.values()]
        lost = self.encoder.lost_continuations(list(ids), list(ids.values()), before)
        said = list(ids)
        lost_answers = {said[i] for i in lost}
        for origin, row in rows:
            if not row.templated:
                self._look_at_border(origin, row)
            if row.prompt in lost_prompts:
                self._lost(origin, row.prompt, texts.prompts[row.prompt])
            elif bad := [a.text for a in row.responses if a.text in lost_answers]:
                self._lost(origin, bad[0], ids[bad[0]])

    def _look_at_border(self, origin: Origin, row: Rendered) -> None:
        """Count prompts and responses of plain text that meet within a word or a token."""
        self.borders += 1
        for response in row.responses:
            ends = row.prompt[-BORDER:], response.text[:BORDER]
            if ends not in self._looked_at and len(self._looked_at) < LOOKED_AT:
                self._looked_at[ends] = self._meet(*ends)
            if self._looked_at.get(ends):
                self.seams += 1
                _remember(self.seam_rows, origin)
                said = f"{origin}: {ends[0][-20:]!r} + {ends[1][:20]!r}"
                self.first_seam = self.first_seam or said
                return

    def _meet(self, before: str, after: str) -> bool:
        """Whether a word, or a token that the tokenizer makes of both as one text, is of both."""
        if not before.strip() or not after:
            return False
        whole, alone = self.encoder.encode([before + after, before])
        (rest,) = self.encoder.encode_continuations([after])
        apart = np.concatenate([alone, rest])
        if self.encoder.decode([apart])[0].endswith(f" {after}") and not before[-1].isspace():
            return False  # a tokenizer of words makes the space itself
        return runs_together(before, after) or not np.array_equal(whole, apart)

    @property
    def seams_matter(self) -> bool:
        """Whether prompt and response run together in more than a few rows."""
        return self.seams > FEW * self.borders

    def _lost(self, origin: Origin, text: str, ids: np.ndarray) -> None:
        self.lossy += 1
        _remember(self.lossy_rows, origin)
        if self.first_loss:
            return
        back = self.encoder.decode([ids])[0]
        pairs = enumerate(zip(text, back, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(text), len(back)))
        from_ = max(0, at - 12)
        self.first_loss = (
            f"{origin}: {text[from_ : at + 20]!r} comes back as {back[from_ : at + 20]!r}"
        )

    def sentences(self, total: int, max_length: int) -> list[str]:
        """The notes, most serious first; none if all is well."""
        said = []
        if self.lossy:
            said.append(
                f"the tokenizer loses text in {self.lossy:,} of {total:,} rows, "
                f"e.g. {self.first_loss}"
            )
        if self.seams_matter:
            said.append(
                f"prompt and response run together in {self.seams:,} of {self.borders:,} rows "
                f"({self.seams / self.borders:.0%}), e.g. {self.first_seam}; --separator ' ' puts "
                "a space between them, --separator '\\n' a line break"
            )
        if self.literals:
            said.append(
                f"{self.literals:,} rows have a special token of the tokenizer in their text, "
                f"e.g. {self.first_literal}; it is read as that token"
            )
        if self.encoder.eos is None:
            said.append("the tokenizer has no end token: plain responses end without one")
        if self.ready_ids:
            said.append(
                f"{self.ready_ids:,} rows came as token ids and are used as they are: "
                "no end token is appended, every response id is scored"
            )
        if self.long_responses:
            said.append(
                f"{self.long_responses:,} responses of several were too long for --max-length "
                f"{max_length} and were left out of their rows"
            )
        if self.shortened:
            said.append(f"prompt shortened in {self.shortened:,} rows; --max-length {max_length}")
        return said


def _remember(rows: list[Origin], origin: Origin) -> None:
    if len(rows) < REMEMBERED:
        rows.append(origin)


def _texts(content: Content) -> list[str]:
    if isinstance(content, str):
        return [content]
    assert isinstance(content, tuple), type(content)
    return [text for turn in content if isinstance(text := turn.get("content"), str)]
