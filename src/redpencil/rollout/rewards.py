"""Rewards by name: a saved reward model, a Python function, or a verifier of the final answer."""

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from redpencil.errors import RedpencilError, RewardError, did_you_mean
from redpencil.rollout.answers import same_answer
from redpencil.types import Message, Origin

Prompt = str | Sequence[Message]
"""Plain text, or the chat turns before the response."""

VERIFIER = "answer"
ANSWER_COLUMN = "answer"
PROMPTS_AT_ONCE = 256
"""Prompts whose responses are handed to a reward together: progress shows between."""


class Reward(Protocol):
    """A reward of responses. The list has one finite number for each response, higher is better.

    prompts, responses, rows: of one length. A prompt is text or a list of chat messages; a response
    is the text after it, without special tokens; a row is the data row the prompt came from ({}
    where there is none). A prompt with K responses occurs K times.
    """

    def __call__(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
    ) -> list[float]: ...


def find_reward(spec: str, *, trust_remote_code: bool = False) -> Reward:
    """The reward that `spec` names.

    spec: `answer` (1.0 where the response's final answer is that of the row's column "answer",
    else 0.0), `module:function` (importable, also from the current directory; a function with the
    signature of `Reward`), or a reward model: a folder, a run of `redpencil reward` or a Hub name.

    What is returned raises RewardError where a reward is missing, no number or not finite. Raises
    RewardError for a function that is not there, ModelError for a model.
    """
    if spec == VERIFIER:
        return Checked(spec, verify)
    module, colon, function = spec.partition(":")
    if colon and not Path(spec).exists():
        return Checked(spec, _Guarded(spec, _function(spec, module, function)))
    from redpencil.rollout.reward_model import RewardModel  # here, for it needs transformers

    return Checked(spec, RewardModel.load(spec, trust_remote_code=trust_remote_code))


def check_reward(spec: str, *, trust_remote_code: bool = False) -> None:
    """Raises where `find_reward` would, short of reading a model's weights."""
    module, colon, function = spec.partition(":")
    if spec == VERIFIER:
        return
    if colon and not Path(spec).exists():
        _function(spec, module, function)
        return
    from redpencil.rollout.reward_model import check_reward_model  # as above

    check_reward_model(spec, trust_remote_code=trust_remote_code)


def verify(
    prompts: Sequence[Prompt], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[float]:
    """1.0 where a response ends in the answer of its row, else 0.0. Raises RewardError."""
    return [float(same_answer(r, _reference(row, i))) for i, (r, row) in _zip(responses, rows)]


def _zip(
    responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> Sequence[tuple[int, tuple[str, Mapping[str, Any]]]]:
    return list(enumerate(zip(responses, rows, strict=True)))


def _reference(row: Mapping[str, Any], index: int) -> str:
    answer = row.get(ANSWER_COLUMN)
    if answer is None:
        hint = did_you_mean(ANSWER_COLUMN, row) if row else ""
        raise RewardError(f'the reward "{VERIFIER}" needs a column "{ANSWER_COLUMN}"{hint}', index)
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise RewardError(
            f'column "{ANSWER_COLUMN}" must hold a text or a number, it holds {answer!r}', index
        )
    return str(answer)


@dataclass(frozen=True, slots=True)
class Checked:
    """A reward whose every answer is looked at: as many as responses, each a finite number."""

    spec: str
    reward: Reward

    def __call__(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
    ) -> list[float]:
        assert len(prompts) == len(responses) == len(rows), (len(prompts), len(responses))
        if not prompts:
            return []
        found = self.reward(prompts, responses, rows)
        try:
            values = list(found)
        except TypeError:
            raise RewardError(
                f"the reward {self.spec} returned {found!r:.80} instead of a list of numbers"
            ) from None
        if len(values) != len(responses):
            raise RewardError(
                f"the reward {self.spec} returned {len(values)} numbers for {len(responses)} "
                "responses"
            )
        return [self._number(value, i, responses[i]) for i, value in enumerate(values)]

    def _number(self, value: Any, index: int, response: str) -> float:
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except OverflowError:  # an int beyond every float, and maybe too long to be shown
            value = number = math.inf
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise RewardError(
                f"the reward {self.spec} returned {value!r:.80} for the response "
                f"{_brief(response)}; wanted is a finite number",
                index,
            )
        return number


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A user's function: what it raises becomes one sentence that names the response."""

    spec: str
    function: Reward

    def __call__(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
    ) -> list[float]:
        try:
            return self.function(prompts, responses, rows)
        except RedpencilError:
            raise
        except Exception as error:
            where = self._culprit(prompts, responses, rows)
            of = "" if where is None else f" for the response {_brief(responses[where])}"
            said = " ".join(str(error).split())
            raise RewardError(
                f"the reward {self.spec} raised {type(error).__name__}{of}: {said}", where
            ) from error

    def _culprit(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
    ) -> int | None:
        """The first response on which the function fails by itself, if there is one."""
        for i in range(len(prompts)):
            try:
                self.function([prompts[i]], [responses[i]], [rows[i]])
            except Exception:
                return i
        return None


def _brief(text: str, length: int = 60) -> str:
    short = " ".join(text.split())
    return repr(short if len(short) <= length else short[: length - 1] + "…")


def _function(spec: str, module: str, function: str) -> Callable[..., list[float]]:
    if module.endswith(".py"):
        raise RewardError(
            f"the reward {spec!r} names a file; name its module: "
            f"{module.removesuffix('.py').replace('/', '.')}:{function}"
        )
    if not module or not function:
        raise RewardError(f"the reward {spec!r} is not of the form module:function")
    found = getattr(_module(spec, module), function, None)
    if found is None:
        names = [n for n, v in vars(sys.modules[module]).items() if callable(v) and n[0] != "_"]
        raise RewardError(f"{module} has no function {function!r}{did_you_mean(function, names)}")
    if not callable(found):
        raise RewardError(f"{spec} is not a function, it is {found!r:.80}")
    taken: Callable[..., list[float]] = found
    return taken


def _module(spec: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # an installed command does not look in the current directory
        sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()  # the module may have been written a moment ago
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            near = did_you_mean(name, [p.stem for p in Path.cwd().glob("*.py")])
            near = near if "did you mean" in near else ""
            raise RewardError(
                f"the reward {spec!r} cannot be found: there is no Python module {error.name!r} "
                f"here ({here}) or installed{near}"
            ) from None
        raise RewardError(f"the reward {spec!r} cannot be imported: {error}") from error
    except Exception as error:  # whatever the user's module raises while it is imported
        raise RewardError(
            f"the reward {spec!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def rate(
    reward: Reward,
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[str]],
    rows: Sequence[Mapping[str, Any]],
    origins: Sequence[Origin],
    progress: Callable[[int], object] | None = None,
) -> list[list[float]]:
    """The rewards of each prompt's responses. An error names the data row it came from.

    progress is called with the number of prompts done since the last call. Raises RewardError.
    """
    found: list[list[float]] = []
    for at in range(0, len(prompts), PROMPTS_AT_ONCE):
        chosen = range(at, min(at + PROMPTS_AT_ONCE, len(prompts)))
        each = [i for i in chosen for _ in responses[i]]
        try:
            flat = iter(
                reward(
                    [prompts[i] for i in each],
                    [text for i in chosen for text in responses[i]],
                    [rows[i] for i in each],
                )
            )
        except RewardError as error:
            if error.index is None:
                raise
            raise RewardError(f"{origins[each[error.index]]}: {error}") from error
        found += [[next(flat) for _ in responses[i]] for i in chosen]
        if progress:
            progress(len(chosen))
    return found
