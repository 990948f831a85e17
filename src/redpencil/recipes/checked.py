"""How options are checked: in one place for the command line, recipe files and Python."""

import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from redpencil.console import unescaped
from redpencil.errors import RecipeError, did_you_mean
from redpencil.recipes.foreign import foreign_option

Options = TypeVar("Options", bound=BaseModel)


def _one_or_several(value: object) -> object:
    """Paths as text; a list of one as that one."""
    if isinstance(value, list | tuple):
        texts = [os.fspath(v) if isinstance(v, os.PathLike) else v for v in value]
        return texts[0] if len(texts) == 1 else texts
    return os.fspath(value) if isinstance(value, os.PathLike) else value


DataSpec = Annotated[
    str | Annotated[tuple[str, ...], Field(min_length=1)], BeforeValidator(_one_or_several)
]
"""Data: a file, a folder, a pattern of files or a Hub data set, or several of them."""

Separator = Annotated[str | None, AfterValidator(unescaped)]


_stored: ContextVar[bool] = ContextVar("stored", default=False)


def reading_stored() -> bool:
    """Whether the options of a run are read that is there already."""
    return _stored.get()


class Checked(BaseModel):
    """Options that are checked when they are made, from Python as from the command line: a mistake
    is a RecipeError of one sentence. A path may be a `pathlib.Path` wherever it may be text."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise RecipeError(_in_words(type(self), error)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and info.field_name:
            wanted = _kinds(cls.model_fields[info.field_name].annotation)
            if {int, float} & wanted and bool not in wanted:  # Python takes true for 1
                raise ValueError(f"should be a number (it is {str(value).lower()})")
        return os.fspath(value) if isinstance(value, os.PathLike) else value


def validated(
    kind: type[Options], options: Mapping[str, Any], *, where: str = "", stored: bool = False
) -> Options:
    """Options of any kind, checked. where: what a message names. stored: of a run that is only
    read. Raises RecipeError with one sentence."""
    reading = _stored.set(stored)
    try:
        return kind(**{str(name): value for name, value in options.items()})
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}" if where else str(error)) from None
    finally:
        _stored.reset(reading)


def _kinds(annotation: Any) -> set[Any]:
    """The types that an option may have."""
    return {annotation}.union(*map(_kinds, get_args(annotation)))


def _in_words(kind: type[BaseModel], error: ValidationError) -> str:
    """The first complaint of a validation as one sentence."""
    first = error.errors()[0]
    several = first["loc"][:1] in (("data",), ("eval_data",))  # one or several: no part of a name
    name = ".".join(map(str, first["loc"][:1] if several else first["loc"]))
    match first["type"]:
        case "extra_forbidden":
            elsewhere = foreign_option(name, kind.model_fields)
            known = f"; {elsewhere}" if elsewhere else did_you_mean(name, kind.model_fields)
            return f"unknown option {name!r}{known}"
        case "missing":
            return f"{name!r} is missing: {kind.model_fields[name].description}"
        case "value_error":
            message = str(first["ctx"]["error"])
            return f"{name}: {message}" if name else message
        case _:
            message = first["msg"].removeprefix("Input ")
            return f"{name} {message} (it is {first['input']!r})"
