"""Tokens: how long the rows are, what a limit would cut, what sharing and packing save."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from redpencil.doctor.findings import Finding
from redpencil.doctor.lengths import Distribution, LengthRule, share_as_json
from redpencil.doctor.tally import Tally, rows_of
from redpencil.types import Example

LIMITS = (512, 1024, 2048, 4096, 8192)
"""--max-length for which the statistics say what would be cut."""

PADDED_TOGETHER = 8
"""Pairs that are padded to the longest of them, where nothing is packed: a common batch."""

MANY = 0.01
"""Share of the rows that must be over the limit before a note becomes a warning."""


class TokenLengths:
    """Lengths in tokens, and what --max-length would cut.

    limit: `--max-length`, or None where none is named.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._prompt = Distribution()
        self._response = Distribution()
        self._whole = Distribution()
        self._longest = Distribution()
        self._rule = LengthRule()
        self._over = Tally()
        self._rows = 0

    def see_example(self, example: Example) -> None:
        self._rows += 1
        prompt, lengths = len(example.prompt_ids), [len(r.ids) for r in example.responses]
        longest = max(lengths)
        self._prompt.add(prompt)
        for length in lengths:
            self._response.add(length)
        self._longest.add(longest)
        self._whole.add(prompt + longest)
        self._rule.see(
            int(example.prompt_key[:16], 16),
            [(lengths[c.chosen], lengths[c.rejected]) for c in example.comparisons],
        )
        if self.limit is not None and prompt + longest > self.limit:
            origin = example.responses[0].origin
            self._over.add(origin, f"{origin}: {prompt:,} + {longest:,} tokens")

    def statistics(self) -> Mapping[str, Any]:
        said: dict[str, Any] = {
            "prompt_tokens": self._prompt.as_json(),
            "response_tokens": self._response.as_json(),
            "row_tokens": self._whole.as_json(),
            "cut": {str(limit): self._cut(limit) for limit in self._limits()},
        }
        accuracy, interval, rows = self._rule.accuracy()
        if rows:
            longer, interval_longer, _ = self._rule.longer()
            said["chosen_has_more_tokens"] = share_as_json(longer, interval_longer, rows)
            said["token_length_accuracy"] = share_as_json(accuracy, interval, rows)
        return said

    def _limits(self) -> Sequence[int]:
        """The common ones up to the first that cuts nothing, and the user's."""
        longest = self._whole.as_json().get("max", 0)
        common = {limit for limit in LIMITS if limit < longest}
        return sorted(common | ({self.limit} if self.limit is not None else set()))

    def _cut(self, limit: int) -> dict[str, int]:
        """Rows longer than the limit, and those of them whose longest response alone leaves no
        room for a prompt."""
        return {"too_long": self._whole.above(limit), "no_room": self._longest.above(limit - 1)}

    def findings(self, total: int) -> Iterable[Finding]:
        if self.limit is None or not self._over.count:
            return
        cut = self._cut(self.limit)
        lost = cut["no_room"]
        yield Finding(
            key="over-max-length",
            group="statistics",
            severity="warning" if lost > MANY * self._rows else "note",
            title="Rows longer than --max-length",
            text=f"{rows_of(cut['too_long'], self._rows)} have more than {self.limit:,} tokens. "
            f"{lost:,} have a response that leaves no room for any prompt, and will be set aside; "
            "the others lose the beginning of their prompt, or are set aside where even that does "
            "not make them fit.",
            count=cut["too_long"],
            of=self._rows,
            rows=tuple(self._over.rows),
            example=self._over.example,
            why="A prompt without its beginning may be another question, and what is set aside "
            "teaches nothing: both fall on the longest rows.",
            advice=f"--max-length {self._whole.quantile(0.99)} would keep 99 % of the rows whole; "
            "memory grows with it (redpencil plan).",
        )


class TokenSavings:
    """How many tokens a model is fed: padded pair by pair, without padding, and as trees.

    Memory for R rows: 12 R bytes (hash of the prompt and its length).
    """

    def __init__(self) -> None:
        self._prompts = array("Q")
        self._lengths = array("I")
        self._padded = 0
        self._batch: list[tuple[int, int]] = []
        self._sequences = 0
        self._below = 0

    def see_example(self, example: Example) -> None:
        prompt = len(example.prompt_ids)
        ids = [r.ids for r in example.responses]
        longest = max(map(len, ids))
        self._prompts.append(int(example.prompt_key[:16], 16))
        self._lengths.append(prompt)
        self._sequences += sum(prompt + len(i) for i in ids)
        self._below += distinct_tokens(ids)
        self._batch.append((len(ids), prompt + longest))
        if len(self._batch) == PADDED_TOGETHER:
            self._pad()

    def _pad(self) -> None:
        if self._batch:
            self._padded += sum(k for k, _ in self._batch) * max(n for _, n in self._batch)
        self._batch = []

    def statistics(self) -> Mapping[str, Any]:
        self._pad()
        prompts = np.frombuffer(self._prompts, dtype=np.uint64)
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)
        first = np.unique(prompts, return_index=True)[1]
        return {
            "tokens": {
                f"padded_{PADDED_TOGETHER}_rows_together": self._padded,
                "packed": self._sequences,
                "distinct_in_each_row": int(lengths.sum(dtype=np.int64)) + self._below,
                "distinct": int(lengths[first].sum(dtype=np.int64)) + self._below,
            }
        }

    def findings(self, total: int) -> Iterable[Finding]:
        return ()


def distinct_tokens(responses: Sequence[np.ndarray]) -> int:
    """Nodes of the prefix tree of the responses: of each what it does not share with the one
    before it in lexicographic order."""
    ordered = sorted(responses, key=lambda ids: ids.astype(">u4").tobytes())
    count = len(ordered[0])
    for before, ids in pairwise(ordered):
        shortest = min(len(before), len(ids))
        differs = before[:shortest] != ids[:shortest]
        count += len(ids) - (int(differs.argmax()) if differs.any() else shortest)
    return count
