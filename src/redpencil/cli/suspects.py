"""Options of the commands that look for suspect labels."""

import argparse

from redpencil.errors import RecipeError

HOWS = ("drop", "flip", "soften")
"""Those of data/mend.py, which is not imported for a --help."""


def add_suspect_options(parser: argparse.ArgumentParser, judge: str) -> None:
    parser.add_argument(
        "--suspects",
        action="store_true",
        help=f"name labels that look reversed, judged by a fit to other prompts ({judge})",
    )
    parser.add_argument("--folds", type=int, metavar="N", help="of --suspects (5)")
    parser.add_argument("--seed", type=int, metavar="N", help="of --suspects: which folds (0)")


def check_suspect_options(args: argparse.Namespace, mend: str | None, mend_option: str) -> None:
    """Raises RecipeError for options that would do nothing."""
    if not args.suspects:
        given = {"--folds": args.folds, "--seed": args.seed, mend_option: mend}
        for option, value in given.items():
            if value is not None:
                raise RecipeError(f"{option} does nothing without --suspects; leave it out")
    elif mend is not None and not args.fix:
        raise RecipeError(f"{mend_option} {mend} does nothing without --fix OUT.jsonl")
