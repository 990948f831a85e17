"""The data doctor: `redpencil check DATA`."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redpencil.cli.options import add_several, parse_columns
from redpencil.cli.suspects import HOWS, add_suspect_options, check_suspect_options
from redpencil.console import unescaped, warn
from redpencil.errors import ModelError, RecipeError, UserError
from redpencil.places import path_of

if TYPE_CHECKING:
    from redpencil.doctor.findings import Diagnosis
    from redpencil.use.suspects import Suspects

Command = Callable[[argparse.Namespace], int | None]
Add = Callable[[str, Command, str, str], argparse.ArgumentParser]


def add_check(command: Add) -> None:
    made = command(
        "check",
        _run,
        "the data doctor: what a data set holds, and what is wrong with it",
        "redpencil check pairs.jsonl\n"
        "  redpencil check pairs.jsonl --model Qwen/Qwen3-0.6B --fix cleaned.jsonl\n"
        "exit code: 0 clean (notes at most), 1 something was found, 2 not readable",
    )
    made.add_argument("data", metavar="DATA", nargs="+", help="files, folders or Hub data sets")
    made.add_argument("--model", help="look at token ids, too, with this model's tokenizer")
    made.add_argument(
        "--fix", metavar="OUT.jsonl", help="write the cleaned rows, and a log beside them"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    made.add_argument("--columns", metavar="OURS=YOURS,...", help="your column names")
    made.add_argument(
        "--for",
        dest="purpose",
        choices=("preference", "sft"),
        help="what the data is for (preference, if its shape serves that)",
    )
    found = "find prompts that this one has, too"
    add_several(made, "--eval-data", metavar="DATA", help=found)
    add_suspect_options(made, "by words, and by --model's hidden states")
    made.add_argument(
        "--suspects-as", choices=HOWS, help="what --fix does with them (it leaves them)"
    )
    made.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens of a row that training will take; with --model (what it takes, at most 2048)",
    )
    made.add_argument(
        "--chat-template",
        default="auto",
        metavar="TEMPLATE",
        help="auto, none or a jinja file (auto)",
    )
    made.add_argument(
        "--separator",
        metavar="TEXT",
        help="between prompt and answer of plain text, \\n for a line break; with --model",
    )
    made.add_argument(
        "--trust-remote-code",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="run code that comes with the model (off)",
    )


def _run(args: argparse.Namespace) -> int:
    try:
        return _check(args)
    except UserError as error:
        if args.json:
            from redpencil.doctor.findings import VERSION

            print(json.dumps({"version": VERSION, "error": str(error)}))
        raise


def _check(args: argparse.Namespace) -> int:
    from redpencil.data.reading import Source
    from redpencil.doctor.checks import Subject
    from redpencil.doctor.examine import examine
    from redpencil.doctor.fix import check_out, fix
    from redpencil.doctor.show import print_diagnosis, print_fixed

    check_suspect_options(args, args.suspects_as, "--suspects-as")
    out = path_of(args.fix) if args.fix else None
    if out:
        check_out(out)
    columns = parse_columns(args.columns) if args.columns else {}
    source = Source(args.data, args.purpose, columns)
    other = getattr(args, "eval_data", None)
    subject = Subject(
        source=source,
        **_tokens(args),
        evaluation=Source(other, args.purpose, columns) if other else None,
    )
    diagnosis = examine(subject, chat_template=args.chat_template)
    suspects = None
    try:
        if args.suspects:
            suspects, diagnosis = _suspects(args, columns, diagnosis)
    finally:  # the diagnosis stands, also where the suspects cannot be told
        if not args.json:
            print_diagnosis(diagnosis)
    mend = None
    if suspects and suspects.mendable and args.suspects_as:
        from redpencil.use.mending import Mender

        mend = Mender(suspects, args.suspects_as, source).mend
    fixed = fix(source, out, mend) if out else None
    if args.json:
        said = diagnosis.as_json() | ({"fixed": fixed.as_json()} if fixed else {})
        said |= {"suspects": {**suspects.header, "rows": suspects.rows()}} if suspects else {}
        print(json.dumps(said))
    elif fixed:
        print_fixed(fixed)
    return 0 if diagnosis.clean else 1


def _suspects(
    args: argparse.Namespace, columns: dict[str, str], diagnosis: "Diagnosis"
) -> tuple["Suspects", "Diagnosis"]:
    """What cross-fitting finds, and the diagnosis that says so, too."""
    from redpencil.doctor.examine import with_finding
    from redpencil.use.suspects import find_suspects
    from redpencil.use.suspects_told import finding

    found = find_suspects(
        args.data,
        columns=columns,
        model=args.model,
        max_length=args.max_length,
        chat_template=args.chat_template,
        separator=unescaped(args.separator),
        trust_remote_code=args.trust_remote_code,
        folds=args.folds or 5,
        seed=args.seed or 0,
    )
    return found, with_finding(diagnosis, finding(found))


def _tokens(args: argparse.Namespace) -> dict[str, Any]:
    """What a subject needs of --model: its tokenizer, and the lengths that training would take.
    An option that needs it is refused without it."""
    if args.model is None:
        if args.max_length is not None:
            raise RecipeError("--max-length counts tokens: give --model, too")
        if args.chat_template != "auto":
            raise RecipeError("--chat-template makes token ids: give --model, too")
        if args.separator is not None:
            raise RecipeError("--separator makes token ids: give --model, too")
        return {}
    if args.max_length is not None and args.max_length < 1:
        raise RecipeError(f"--max-length {args.max_length}: at least 1 token is needed")
    from redpencil.data.chat import use_separator
    from redpencil.models.tokenizer import context_length, load_tokenizer
    from redpencil.stages.run import max_length_of

    tokenizer = load_tokenizer(args.model, trust_remote_code=args.trust_remote_code)
    use_separator(tokenizer, unescaped(args.separator), args.chat_template)
    try:
        longest = context_length(args.model, trust_remote_code=args.trust_remote_code)
    except ModelError as error:  # the tokenizer alone says enough, but for the length
        warn(f"{error}; so the length that it takes is not known")
        return {"tokenizer": tokenizer, "max_length": args.max_length or sys.maxsize}
    max_length = max_length_of(args.max_length, longest)
    return {"tokenizer": tokenizer, "max_length": max_length, "longest": longest}
