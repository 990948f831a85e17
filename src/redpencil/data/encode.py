"""A tokenizer as the data room needs it: text to ids in batches, and back, exactly.

Three traps of tokenizers are handled here and nowhere else:

- A text's start can be special. SentencePiece-like tokenizers put a space in front of whatever
  they encode, so a response encoded alone would begin with a space that it does not have. Such
  responses are encoded behind a *guard*, a character that does not merge with them, whose ids are
  then taken off.
- Special tokens are added by some tokenizers and not by others, in front and at the end. Only what
  comes in front (BOS) belongs to a prompt, and only once.
- A tokenizer can lose text. `lost` says for which texts decoding does not give the text back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

_GUARDS = ("|", "\n", ".", "0", "x", "_", "~")
_PROBES = ("a", "1", "the", "가", "я")


@dataclass(frozen=True, slots=True)
class _Guard:
    """text: what is put in front of a response. ids: what to take off. decoded: ids as text."""

    text: str
    ids: tuple[int, ...]
    decoded: str


class Encoder:
    """Wraps one tokenizer; what is found by probing it is found once.

    start: the ids that the tokenizer puts in front of a text by itself (BOS), often empty.
    eos: the end token's id or None. added: added tokens (special or not), text to id.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = len(tokenizer)
        self.eos: int | None = tokenizer.eos_token_id
        self.added = {
            token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items()
        } | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self._special_ids = frozenset(self.added.values())
        self._lead = self._find_lead()
        self.start = self._find_start()
        self.guards = self._find_guards()

    def start_of_empty(self) -> tuple[int, ...]:
        """Ids that stand for an empty prompt: something must come before the first token."""
        if self.start:
            return self.start
        first = self.tokenizer.bos_token_id
        first = self.eos if first is None else first
        return () if first is None else (first,)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text as it stands, nothing added: int32 arrays."""
        return [np.array(ids, dtype=np.int32) for ids in self._ids(texts)]

    def encode_continuations(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text as the continuation of another one: no space is put in front."""
        found: dict[int, np.ndarray] = {}
        pending = list(range(len(texts)))
        for guard in self.guards:
            encoded = self._ids([guard.text + texts[i] for i in pending])
            for i, ids in zip(pending, encoded, strict=True):
                if tuple(ids[: len(guard.ids)]) == guard.ids:
                    found[i] = np.array(ids[len(guard.ids) :], dtype=np.int32)
            pending = [i for i in pending if i not in found]
            if not pending:
                break
        alone = self.encode([texts[i] for i in pending])
        found.update(zip(pending, alone, strict=True))
        return [found[i] for i in range(len(texts))]

    def decode(self, ids: Sequence[np.ndarray]) -> list[str]:
        """Text of each row of ids, special tokens and spaces as they are."""
        rows = [i.tolist() for i in ids]
        if self.tokenizer.is_fast:
            backend = self.tokenizer.backend_tokenizer
            return list(backend.decode_batch(rows, skip_special_tokens=False))
        return [self._decode(row) for row in rows]

    def lost_prompts(self, texts: Sequence[str], ids: Sequence[np.ndarray]) -> list[int]:
        """Indices of the texts that their ids (without an added BOS) do not decode to."""
        decoded = self.decode(ids)
        # A space that the tokenizer puts in front of every text is no loss.
        differ = [i for i, text in enumerate(texts) if decoded[i] not in (text, self._lead + text)]
        return [i for i in differ if not self._returns(texts[i], ids[i].tolist())]

    def lost_continuations(
        self,
        texts: Sequence[str],
        ids: Sequence[np.ndarray],
        before: Sequence[np.ndarray],
    ) -> list[int]:
        """Likewise for continuations of `before` (ids): alone first, then together with it."""
        head: tuple[int, ...] = self.guards[0].ids if self.guards else ()
        head_text = self.guards[0].decoded if self.guards else ""
        guarded = [np.concatenate([np.array(head, dtype=np.int32), i]) for i in ids]
        decoded = self.decode(guarded)
        differ = [i for i, text in enumerate(texts) if decoded[i] != head_text + text]
        differ = [i for i in differ if not self._returns(head_text + texts[i], guarded[i].tolist())]
        # A word-level tokenizer makes the space between words when it decodes.
        together = self.decode([np.concatenate([before[i], ids[i]]) for i in differ])
        first = self.decode([before[i] for i in differ])
        return [
            i
            for i, whole, beginning in zip(differ, together, first, strict=True)
            if whole != beginning + texts[i]
        ]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        return encoded["input_ids"]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _returns(self, text: str, ids: Sequence[int]) -> bool:
        """Whether ids that as a whole decode otherwise give the text run by run."""
        special = self._special_ids.intersection(ids)
        if not special or self.tokenizer.unk_token_id in special:
            return False  # one run, or a word that is lost
        return self._decode_runs(ids) == text

    def _decode_runs(self, ids: Sequence[int]) -> str:
        """Decode the runs between special tokens one by one: Llama's tokenizer puts a space after
        each special token and takes it off at the start of a text only."""
        parts: list[str] = []
        run: list[int] = []
        for id_ in ids:
            if id_ in self._special_ids:
                parts += [self._decode(run), self._decode([id_])]
                run = []
            else:
                run.append(id_)
        return "".join([*parts, self._decode(run)])

    def _find_lead(self) -> str:
        """What decoding shows in front of a text that was encoded alone: nothing or a space."""
        for probe in _PROBES:
            decoded = self._decode(self._ids([probe])[0])
            if decoded.endswith(probe):
                return decoded.removesuffix(probe)
        return ""

    def _find_start(self) -> tuple[int, ...]:
        for probe in _PROBES:
            bare = list(self._ids([probe])[0])
            whole = list(self.tokenizer(probe)["input_ids"])
            for at in range(len(whole) - len(bare) + 1):
                if bare and whole[at : at + len(bare)] == bare:
                    return tuple(whole[:at])
        return ()

    def _find_guards(self) -> tuple[_Guard, ...]:
        """None if texts that are encoded alone can be glued without a change."""
        alone = {t: list(self._ids([t])[0]) for t in _PROBES}
        known = [t for t in _PROBES if self._decode(alone[t]).strip() == t]
        glued = (self._decode(alone[a] + alone[b]) for a in known for b in known)
        wanted = (self._decode(alone[a]) + b for a in known for b in known)
        if all(g == w for g, w in zip(glued, wanted, strict=True)):
            return ()
        guards = []
        for text in _GUARDS:
            ids = tuple(self._ids([text])[0])
            decoded = self._decode(ids)
            behind = (self._decode(self._ids([text + t])[0]) for t in known)
            if (
                known
                and decoded.endswith(text)
                and all(b == decoded + t for b, t in zip(behind, known, strict=True))
            ):
                guards.append(_Guard(text, ids, decoded))
        return tuple(guards)
