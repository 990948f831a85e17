"""The wrong-answer notebook on screen, and what is made of it: the next round's data.

`redpencil note RUN` shows; every option that writes a file is an action of its own, tried in the
order of `_ACTIONS`.
"""

import argparse
import json
from collections.abc import Callable

from redpencil.cli.suspects import HOWS, add_suspect_options, check_suspect_options
from redpencil.errors import RecipeError
from redpencil.places import path_of

Command = Callable[[argparse.Namespace], int | None]
Add = Callable[[str, Command, str, str], argparse.ArgumentParser]

KINDS = ("corrected", "broken", "stubborn", "right", "undecided")
"""Those of the notebook, which is not imported for a --help."""


def add_note(command: Add) -> None:
    made = command(
        "note",
        _run,
        "the wrong-answer notebook: which pairs a run corrected, broke, never learned",
        "redpencil note runs/first\n"
        "  redpencil note runs/first --split train --kind broken --top 10\n"
        "  redpencil note runs/first --again next_round.jsonl",
    )
    made.add_argument("run", metavar="RUN")
    made.add_argument(
        "--split", choices=("eval", "train"), help="held-out or training pairs (eval)"
    )
    made.add_argument("--kind", choices=KINDS, help="only pairs of this kind")
    made.add_argument("--top", type=int, metavar="N", help="pairs shown of a kind (3)")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument(
        "--again",
        metavar="OUT.jsonl",
        help="write the rows of stubborn training pairs (or --split, --kind) as the next data",
    )
    made.add_argument("--data", metavar="DATA", help="where the run's data lie now, if moved")
    add_suspect_options(made, "the run's model as it was before training")
    made.add_argument("--fix", metavar="OUT.jsonl", help="write the data with its suspects mended")
    made.add_argument("--as", dest="mend", choices=HOWS, help="how --fix mends them (drop)")


def _run(args: argparse.Namespace) -> int | None:
    if args.top is not None and args.top < 0:
        raise RecipeError(f"--top {args.top} must not be negative")
    check_suspect_options(args, args.mend, "--as")
    if args.fix and not args.suspects:
        raise RecipeError("--fix mends suspect labels: give --suspects, too")
    for asked, act in _ACTIONS:
        if asked(args):
            return act(args)
    _show(args)
    return None


def _show(args: argparse.Namespace) -> None:
    from redpencil.use.note_screen import print_note
    from redpencil.use.noting import note

    if args.data and args.split != "train":
        raise RecipeError(
            "--data says where the texts of training pairs lie now (those of held-out ones are in "
            "the run): give --split train or --again, too"
        )
    shown = note(
        path_of(args.run),
        split=args.split or "eval",
        kind=args.kind,
        top=_top(args),
        data=args.data,
    )
    if args.json:
        print(json.dumps(shown.as_json(), ensure_ascii=False))
    else:
        print_note(shown)


def _top(args: argparse.Namespace) -> int:
    return 3 if args.top is None else int(args.top)


def _again(args: argparse.Namespace) -> None:
    from redpencil.use.again import print_again, write_again

    if args.top is not None:
        raise RecipeError("--top says how many pairs are shown; --again writes all of a kind")
    result = write_again(
        path_of(args.run),
        path_of(args.again),
        split=args.split or "train",
        kind=args.kind or "stubborn",
        data=args.data,
    )
    if args.json:
        print(json.dumps(result.as_json(), ensure_ascii=False))
    else:
        print_again(result)


def _suspects(args: argparse.Namespace) -> None:
    from redpencil.use.mending import print_mended, write_mended
    from redpencil.use.suspects import suspects_of_run
    from redpencil.use.suspects_told import print_suspects

    if args.again or args.kind or args.split or args.data:
        raise RecipeError(
            "--suspects looks at all pairs of the run; give --again, --kind, --split "
            "and --data in a command of their own"
        )
    found, columns = suspects_of_run(
        path_of(args.run),
        folds=args.folds or 5,
        seed=args.seed or 0,
        fix=path_of(args.fix) if args.fix else None,
    )
    if not args.json:
        print_suspects(found, shown=_top(args))
    mended = None
    if args.fix:
        mended = write_mended(found, path_of(args.fix), args.mend or "drop", columns=columns)
    if args.json:
        said = {**found.header, **({"fixed": mended.as_json()} if mended else {})}
        print(json.dumps(said, ensure_ascii=False))
    elif mended:
        print_mended(mended)


_ACTIONS: tuple[tuple[Callable[[argparse.Namespace], object], Command], ...] = (
    (lambda args: args.suspects, _suspects),
    (lambda args: args.again, _again),
)
"""(whether it was asked for, what is done then) of everything but showing the notebook."""
