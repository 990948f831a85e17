"""An example as one run of bytes, and back: the form in which a data set waits on disk.

Numbers of 8 bytes come first, then those of 4, then of 1, so that each lies where numpy wants it:

    head         2 x int64      how many reals, how many wholes
    reals        float64        of each response its weight; of each comparison its weight, margin,
                                probability
    wholes       int32          lengths of prompt, responses, comparisons; of each response its
                                length, file, row; of each comparison chosen, rejected, file, row
    ids, scored  int32, bool    the prompt's ids and all responses', and the responses' masks
"""

from collections.abc import MutableMapping, Sequence

import numpy as np

from redpencil.types import Comparison, Example, Origin, Response

_NOWHERE = -1
"""In the place of a file's number: a comparison without a row of its own."""
_HEAD = 16


def to_bytes(example: Example, files: MutableMapping[str, int]) -> bytes:
    """All of an example but `prompt_key` and `response_base`. files: numbers of the files that rows
    came from, to which new ones are added."""
    responses, comparisons = example.responses, example.comparisons
    assert all(r.rollout is None for r in responses), "rollouts are not kept"
    reals = [r.weight for r in responses]
    wholes = [len(example.prompt_ids), len(responses), len(comparisons)]
    for r in responses:
        wholes += (len(r.ids), *_place(r.origin, files))
    for c in comparisons:
        reals += (c.weight, c.margin, c.probability)
        wholes += (c.chosen, c.rejected, *_place(c.origin, files))
    parts: list[np.ndarray] = [
        np.array([len(reals), len(wholes)], dtype=np.int64),
        np.array(reals, dtype=np.float64),
        np.array(wholes, dtype=np.int32),
        *(np.asarray(i, dtype=np.int32) for i in (example.prompt_ids, *(r.ids for r in responses))),
        *(np.asarray(r.scored, dtype=np.bool_) for r in responses),
    ]
    return b"".join(part.tobytes() for part in parts)


def from_bytes(content: bytearray, files: Sequence[str], key: str) -> Example:
    """The example with this `prompt_key`. files: their names, by number."""
    real_count, whole_count = np.frombuffer(content, np.int64, 2).tolist()
    reals = np.frombuffer(content, np.float64, real_count, _HEAD).tolist()
    at = _HEAD + 8 * real_count
    wholes = np.frombuffer(content, np.int32, whole_count, at).tolist()
    prompt, k, t = wholes[:3]
    lengths = wholes[3 : 3 + 3 * k : 3]
    at += 4 * whole_count
    ids = np.frombuffer(content, np.int32, prompt + sum(lengths), at)
    scored = np.frombuffer(content, np.bool_, sum(lengths), at + 4 * len(ids))
    responses, end = [], 0
    for i, length in enumerate(lengths):
        begin, end = end, end + length
        responses.append(
            Response(
                ids=ids[prompt + begin : prompt + end],
                scored=scored[begin:end],
                origin=Origin(files[wholes[4 + 3 * i]], wholes[5 + 3 * i]),
                weight=reals[i],
            )
        )
    after = 3 + 3 * k
    return Example(
        prompt_ids=ids[:prompt],
        responses=tuple(responses),
        comparisons=tuple(
            _comparison(wholes[after + 4 * j :][:4], reals[k + 3 * j :][:3], files)
            for j in range(t)
        ),
        prompt_key=key,
    )


def _comparison(wholes: list[int], reals: list[float], files: Sequence[str]) -> Comparison:
    chosen, rejected, file, row = wholes
    weight, margin, probability = reals
    return Comparison(
        chosen=chosen,
        rejected=rejected,
        weight=weight,
        margin=margin,
        probability=probability,
        origin=None if file == _NOWHERE else Origin(files[file], row),
    )


def _place(origin: Origin | None, files: MutableMapping[str, int]) -> tuple[int, int]:
    if origin is None:
        return _NOWHERE, 0
    return files.setdefault(origin.file, len(files)), origin.row
