"""Tokens: how long the rows are, what a limit would cut, what sharing and packing save."""

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from redpencil.data.assemble import Encoded
from redpencil.doctor.findings import Finding
from redpencil.doctor.numbers.lengths import Distribution, LengthRule, share_as_json
from redpencil.types import Example

LIMITS = (512, 1024, 2048, 4096, 8192)
"""--max-length for which the statistics say what would be cut."""

PADDED_TOGETHER = 8
"""Pairs that are padded to the longest of them, where nothing is packed: a common batch."""

WANTED = 0.99
"""Share of the rows that the --max-length which is advised keeps whole."""


class TokenLengths:
    """Lengths in tokens, and what --max-length cuts.

    limit: what training takes of a row, by `--max-length` or without it; longest: what the model
    was made for. sys.maxsize where there is no bound.
    """

    def __init__(self, limit: int, longest: int) -> None:
        self.limit = limit
        self.longest = longest
        self._prompt = Distribution()
        self._response = Distribution()
        self._whole = Distribution()
        self._longest = Distribution()
        self._rule = LengthRule()

    def see_whole(self, encoded: Encoded) -> None:
        """The ids of a row before anything is cut."""
        self._prompt.add(len(encoded.prompt_ids))
        for ids, _ in encoded.responses:
            self._response.add(len(ids))
        self._longest.add(encoded.longest_response)
        self._whole.add(encoded.length)

    def see_example(self, example: Example) -> None:
        lengths = [len(r.ids) for r in example.responses]
        self._rule.see(
            int(example.prompt_key[:16], 16),
            [(lengths[c.chosen], lengths[c.rejected]) for c in example.comparisons],
        )

    def statistics(self) -> Mapping[str, Any]:
        said: dict[str, Any] = {
            **({"max_length": self.limit} if self.limit != sys.maxsize else {}),
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
        """The one in force, and others that the model takes and some row exceeds."""
        longest = self._whole.as_json().get("max", 0)
        cutting = {n for n in (*LIMITS, self.longest) if n < longest and n <= self.longest}
        return sorted(cutting | ({self.limit} - {sys.maxsize}))

    def _cut(self, limit: int) -> dict[str, int]:
        """Rows longer than the limit, and those of them whose longest response alone leaves no
        room for a prompt."""
        return {"too_long": self._whole.above(limit), "no_room": self._longest.above(limit - 1)}

    def advice(self) -> str:
        """What to do about rows that are too long."""
        wanted = self._whole.quantile(WANTED)
        if wanted <= self.limit:  # they are few: one limit for all
            wanted = self._whole.as_json()["max"]
        if wanted <= self.longest:
            return f"{self._would_keep(wanted)}; memory grows with it (redpencil plan)."
        said = f"The model takes {self.longest:,} tokens at most"
        if self.limit < self.longest:
            said += f": {self._would_keep(self.longest)}"
        return f"{said}. Shorten these rows, leave them out, or take a model with a longer context."

    def _would_keep(self, limit: int) -> str:
        rows = self._whole.count
        share = (rows - self._whole.above(limit)) / rows
        return f"--max-length {limit} would keep {share:.1%} of the rows whole"

    def findings(self, total: int) -> Iterable[Finding]:
        return ()


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
