"""The command line. Options of a stage are the fields of its recipe; nothing is declared twice."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from redpencil import __version__
from redpencil.console import complain
from redpencil.errors import RecipeError, RedpencilError, did_you_mean
from redpencil.recipes import STAGES, Recipe, make_recipe

Command = Callable[[argparse.Namespace], None]

EPILOG = """examples:
  redpencil demo
  redpencil dpo --model Qwen/Qwen3-0.6B --data pairs.jsonl --out runs/first
  redpencil COMMAND --help      shows the options of a command and an example"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 2 wrong input, 3 non-finite, 130)."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's & ignores it
    try:
        args = _parse(_parser(), list(sys.argv[1:] if argv is None else argv))
        args.command(args)
    except RedpencilError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from the last checkpoint, if there is one")
        return 130
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        sys.stderr.close()
        return 0
    return 0


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    """Argparse, but a mistake is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; see {self.prog} --help")


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    if not argv:
        parser.print_help()
        raise SystemExit(0)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        chosen = args.parser
        flag = unknown[0].partition("=")[0]
        known = [option for action in chosen._actions for option in action.option_strings]
        hint = did_you_mean(flag, known) if flag.startswith("-") else ""
        hint = hint if hint.startswith("; did") else f"; see {chosen.prog} --help"
        raise RecipeError(f"{chosen.prog} does not know {flag!r}{hint}")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="redpencil",
        description="Align language models with preference pairs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"redpencil {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Command, help: str, example: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.set_defaults(command=run, parser=made)
        return made

    _add_demo(command)
    for stage, (help, example) in _STAGE_HELP.items():
        made = command(stage, _train, help, example)
        made.set_defaults(stage=stage)
        for name, field in STAGES[stage].model_fields.items():
            if name != "stage":
                _add_option(made, name, field)
    _add_run(command)
    _add_eval(command)
    _add_generate(command)
    _add_chat(command)
    _add_folder_commands(command)
    return parser


_STAGE_HELP = {
    "sft": (
        "fine-tune on demonstrations, or on the chosen side of pairs",
        "redpencil sft --model Qwen/Qwen3-0.6B-Base --data chats.jsonl --out runs/sft",
    ),
    "dpo": (
        "train on preference pairs (DPO, IPO, hinge)",
        "redpencil dpo --model Qwen/Qwen3-0.6B --data pairs.jsonl --out runs/first --lora-rank 16",
    ),
}

Add = Callable[[str, Command, str, str], argparse.ArgumentParser]


def _add_option(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    """One flag for one recipe field. Values stay text: the recipe converts and checks them."""
    flag = "--" + name.replace("_", "-")
    help = field.description or ""
    if field.annotation is bool:
        action: Any = argparse.BooleanOptionalAction
        parser.add_argument(
            flag, action=action, default=argparse.SUPPRESS, help=f"{help} ({_word(field.default)})"
        )
        return
    if field.default is not None and not field.is_required() and name != "columns":
        help += f" ({field.default})"
    metavar = _metavar(name, field)
    parser.add_argument(
        flag,
        required=field.is_required(),
        default=argparse.SUPPRESS,
        metavar=metavar,
        help=help.replace("%", "%%"),
    )


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


def _train(args: argparse.Namespace) -> None:
    recipe = _recipe(args)
    from redpencil.run import train

    train(recipe)


def _recipe(args: argparse.Namespace) -> Recipe:
    fields = STAGES[args.stage].model_fields
    options = {k: v for k, v in vars(args).items() if k in fields and k != "stage"}
    if "columns" in options:
        options["columns"] = _parse_columns(options["columns"])
    try:
        return make_recipe(args.stage, options)
    except RecipeError as error:
        raise RecipeError(_dashed(str(error), fields)) from None


def _dashed(message: str, fields: dict[str, FieldInfo]) -> str:
    """Option names as they are typed on the command line."""
    first, space, rest = message.partition(" ")
    name = first.rstrip(":")
    return f"--{name.replace('_', '-')}{space}{rest}" if name in fields else message


def _parse_columns(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or not all(
        equals and ours.strip() and yours.strip() for ours, equals, yours in pairs
    ):
        raise RecipeError(f"--columns {text!r} is not of the form chosen=good,rejected=bad")
    return {ours.strip(): yours.strip() for ours, _, yours in pairs}


def _add_demo(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.demo import demo

        demo(Path(args.out), seed=args.seed)

    made = command(
        "demo",
        run,
        "the whole path on the embedded review world, ends with a report",
        "redpencil demo --out runs/demo",
    )
    made.add_argument("--out", default="runs/demo", help="run folder (runs/demo)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of world and model (0)")


def _add_run(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.recipe_file import load_stages, parse_override

        overrides = dict(parse_override(text) for text in args.overrides)
        recipes = load_stages(Path(args.recipe), overrides)
        from redpencil.run import train

        for recipe in recipes:
            train(recipe)

    made = command(
        "run",
        run,
        "several stages from one file; finished ones are not redone",
        "redpencil run recipe.yaml dpo.beta=0.2 seed=1",
    )
    made.add_argument("recipe", metavar="RECIPE.yaml", help="stages and their options")
    made.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="for all stages, or STAGE.KEY=VALUE"
    )


def _add_eval(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.measure import evaluate_pairs, print_evaluation

        columns = _parse_columns(args.columns) if args.columns else {}
        result = evaluate_pairs(args.target, args.data, args.reference, args.beta, columns)
        if args.json:
            print(json.dumps(result))
        else:
            print_evaluation(result)

    made = command(
        "eval",
        run,
        "measure a run or a model on preference pairs",
        "redpencil eval runs/first --data test_pairs.jsonl",
    )
    made.add_argument("target", metavar="RUN|MODEL")
    made.add_argument("--data", help="pairs; default: the run's held-out ones")
    made.add_argument("--reference", help="reference model; default: the run's own")
    made.add_argument("--beta", type=float, metavar="N", help="of the reward (the run's, or 0.1)")
    made.add_argument("--columns", metavar="OURS=YOURS,...", help="your column names")
    made.add_argument("--json", action="store_true", help="print one JSON object")


def _add_generate(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.talk import generate

        generate(
            args.target,
            prompts=args.prompt,
            data=args.data,
            out=Path(args.out) if args.out else None,
            num=args.num,
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
            seed=args.seed,
        )

    made = command(
        "generate",
        run,
        "sample completions",
        'redpencil generate runs/first --prompt "Once upon a time" --num 4',
    )
    made.add_argument("target", metavar="RUN|MODEL")
    made.add_argument("--prompt", action="append", default=[], help="may be given several times")
    made.add_argument("--data", help="a data file whose prompts are taken")
    made.add_argument("--out", help="write rows {prompt, responses} as JSONL")
    made.add_argument("--num", type=int, default=1, metavar="N", help="completions a prompt (1)")
    made.add_argument("--temperature", type=float, default=1.0, metavar="N", help="0: greedy (1.0)")
    made.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="(128)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="(0)")


def _add_chat(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.talk import chat

        chat(args.target, temperature=args.temperature, max_new_tokens=args.max_new_tokens)

    made = command(
        "chat",
        run,
        "talk to policy and reference side by side",
        "redpencil chat runs/first",
    )
    made.add_argument("target", metavar="RUN|MODEL")
    made.add_argument("--temperature", type=float, default=0.7, metavar="N", help="(0.7)")
    made.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="(256)")


def _add_folder_commands(command: Add) -> None:
    def report(args: argparse.Namespace) -> None:
        from redpencil.report import build_report

        print(build_report(Path(args.run)))

    made = command(
        "report", report, "(re)build report.html of a run", "redpencil report runs/first"
    )
    made.add_argument("run", metavar="RUN")

    def export(args: argparse.Namespace) -> None:
        from redpencil.exporting import export

        export(Path(args.run), Path(args.out), step=args.step)

    made = command(
        "export",
        export,
        "a Hugging Face folder of a run, of its last, best or another step",
        "redpencil export runs/first my-model --step best",
    )
    made.add_argument("run", metavar="RUN")
    made.add_argument("out", metavar="OUT")
    made.add_argument(
        "--step", default="last", metavar="STEP", help="last, best or a number (last)"
    )


if __name__ == "__main__":
    sys.exit(main())
