"""A recipe's fields as command-line options, and typed options as a recipe."""

import argparse
import re
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from redpencil.errors import RecipeError
from redpencil.recipes.stages import STAGES, Recipe, make_recipe


def add_options(parser: argparse.ArgumentParser, stage: str) -> None:
    """A flag for each field of a stage's recipe."""
    fields = STAGES[stage].model_fields
    for name, field in fields.items():
        if name != "stage":
            add_option(parser, name, field)
    needed = " ".join(
        f"--{n.replace('_', '-')} {n.upper()}" for n in fields if fields[n].is_required()
    )
    parser.usage = f"%(prog)s {needed} [OPTIONS]"


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """How much is said on the way."""
    either = parser.add_mutually_exclusive_group()
    for flag, help in (
        ("quiet", "no progress: results, warnings and errors only"),
        (
            "verbose",
            "lines about the loss beside a progress bar, too, with norm and speed",
        ),
    ):
        either.add_argument(
            f"--{flag}",
            dest="verbosity",
            action="store_const",
            const=flag,
            default="normal",
            help=help,
        )


def add_option(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    """One flag for one recipe field. Values stay text: the recipe converts and checks them."""
    flag = "--" + name.replace("_", "-")
    help = field.description or ""
    if field.annotation is bool:
        action: Any = argparse.BooleanOptionalAction
        parser.add_argument(
            flag, action=action, default=argparse.SUPPRESS, help=f"{help} ({_word(field.default)})"
        )
        return
    if field.is_required():
        help += " (required)"  # the recipe says what is missing, after argparse what is unknown
    elif field.default is not None and name != "columns":
        help += f" ({field.default})"
    metavar = _metavar(name, field)
    if name in SEVERAL:
        add_several(parser, flag, metavar=metavar, help=help)
        return
    parser.add_argument(
        flag,
        default=argparse.SUPPRESS,
        metavar=metavar,
        help=help.replace("%", "%%"),
    )


SEVERAL = ("data", "eval_data")
"""Options that may be given several times: one data set is several files, then."""


def add_several(parser: argparse.ArgumentParser, flag: str, *, metavar: str, help: str) -> None:
    """A flag that takes several values: given again, or, as a shell's pattern gives them, in a row;
    the latter only where no argument without a flag could follow."""
    positional = any(not action.option_strings for action in parser._actions)
    kind: dict[str, Any] = (
        {"action": "append"} if positional else {"action": "extend", "nargs": "+"}
    )
    help = f"{help.replace('%', '%%')}; may be given several times"
    parser.add_argument(flag, default=argparse.SUPPRESS, metavar=metavar, help=help, **kind)


def refuse_twice(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Raises RecipeError for an option that takes one value and is given twice: which of them is
    meant, nobody knows."""
    seen: dict[str, str] = {}
    for word in argv[: argv.index("--")] if "--" in argv else argv:
        flag = word.partition("=")[0]
        action = parser._option_string_actions.get(flag) if flag.startswith("-") else None
        if action is None or isinstance(action, argparse._AppendAction):
            continue
        if action.dest in seen:
            before = seen[action.dest]
            both = f"{flag} is given twice" if before == flag else f"{before} and {flag} are given"
            raise RecipeError(f"{both}; {parser.prog} takes it once")
        seen[action.dest] = flag


def _word(on: object) -> str:
    return "on" if on else "off"


def _metavar(name: str, field: FieldInfo) -> str:
    if name == "columns":
        return "OURS=YOURS,..."
    literal = get_origin(field.annotation) is not None and all(
        isinstance(a, str) for a in get_args(field.annotation)
    )
    if literal:
        return "{" + ",".join(get_args(field.annotation)) + "}"
    if {int, float} & {field.annotation, *get_args(field.annotation)}:
        return "N"
    return name.split("_")[-1].upper()


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe of the stage in `args`, from the options that were given. Raises RecipeError."""
    fields = STAGES[args.stage].model_fields
    options = {k: v for k, v in vars(args).items() if k in fields and k != "stage"}
    if "columns" in options:
        options["columns"] = parse_columns(options["columns"])
    try:
        return make_recipe(args.stage, options)
    except RecipeError as error:
        raise RecipeError(dashed(str(error), fields)) from None


def dashed(message: str, fields: dict[str, FieldInfo]) -> str:
    """Option names as they are typed on the command line."""
    first, space, rest = message.partition(" ")
    name = first.rstrip(":").strip("'")
    if name in fields:
        message = f"--{name.replace('_', '-')}{space}{rest}"
    for known in fields:
        if "_" in known:  # without one it may be just a word
            message = re.sub(rf"\b{known}\b", f"--{known.replace('_', '-')}", message)
    return message


def parse_columns(text: str) -> dict[str, str]:
    """`"chosen=good,rejected=bad"` as a mapping from our names to theirs. Raises RecipeError."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or not all(
        equals and ours.strip() and yours.strip() for ours, equals, yours in pairs
    ):
        raise RecipeError(f"--columns {text!r} is not of the form chosen=good,rejected=bad")
    found: dict[str, str] = {}
    for ours, _, yours in pairs:
        if ours.strip() in found:
            raise RecipeError(f"--columns {text!r} says twice what {ours.strip()!r} is")
        found[ours.strip()] = yours.strip()
    return found
