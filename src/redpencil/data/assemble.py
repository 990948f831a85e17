"""Rendered records become token ids; each distinct text goes through the tokenizer once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from redpencil.data.encode import Encoder
from redpencil.data.render import Rendered, RenderedResponse


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """prompt_ids: (P,) int32, of which the first `start` are the tokenizer's BOS.

    responses: K pairs of ids (L,) int32 and scored (L,) bool.
    """

    prompt_ids: np.ndarray
    start: int
    responses: tuple[tuple[np.ndarray, np.ndarray], ...]

    @property
    def longest_response(self) -> int:
        return max(len(ids) for ids, _ in self.responses)

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + self.longest_response


@dataclass(frozen=True, slots=True)
class Texts:
    """Ids of all texts of some records: prompts without BOS, and pieces of responses."""

    prompts: Mapping[str, np.ndarray]
    pieces: Mapping[str, np.ndarray]

    def response(self, response: RenderedResponse) -> np.ndarray:
        """Ids of a whole response, without an appended EOS."""
        return np.concatenate([self.pieces[p.text] for p in response.pieces])


def encode_texts(rendered: Sequence[Rendered], encoder: Encoder) -> Texts:
    """Encode the texts of rendered records together."""
    pieces = (p.text for r in rendered for answer in r.responses for p in answer.pieces)
    return Texts(
        _encode_distinct((r.prompt for r in rendered), encoder.encode),
        _encode_distinct(pieces, encoder.encode_continuations),
    )


def assemble(rendered: Rendered, texts: Texts, encoder: Encoder) -> Encoded:
    """Put a record's ids together: BOS in front where the text has none, EOS where none ends it."""
    body, start = texts.prompts[rendered.prompt], 0
    if not rendered.templated:
        body, start = with_start(body, encoder)
    responses = tuple(_response(r, texts.pieces, encoder.eos) for r in rendered.responses)
    return Encoded(body, start, responses)


def _encode_distinct(
    texts: Iterable[str], encode: Callable[[Sequence[str]], list[np.ndarray]]
) -> dict[str, np.ndarray]:
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, encode(distinct), strict=True))


def with_start(body: np.ndarray, encoder: Encoder) -> tuple[np.ndarray, int]:
    """The prompt behind its BOS, and how many ids that is; a text that has it gets no second."""
    start = encoder.start if len(body) else encoder.start_of_empty()
    if tuple(body[: len(start)].tolist()) == start:
        return body, len(start)
    return np.concatenate([np.array(start, dtype=np.int32), body]), len(start)


def _response(
    response: RenderedResponse, piece_of: Mapping[str, np.ndarray], eos: int | None
) -> tuple[np.ndarray, np.ndarray]:
    parts = [piece_of[p.text] for p in response.pieces]
    scored = [np.full(len(i), p.scored) for i, p in zip(parts, response.pieces, strict=True)]
    ends_with = int(parts[-1][-1]) if len(parts[-1]) else None
    if not response.ended and eos is not None and ends_with != eos:
        parts.append(np.array([eos], dtype=np.int32))
        scored.append(np.ones(1, dtype=bool))
    return np.concatenate(parts), np.concatenate(scored)
