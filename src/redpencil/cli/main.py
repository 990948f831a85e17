"""The command line. Options of a stage are the fields of its recipe; nothing is declared twice."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from redpencil import __version__
from redpencil.cli.check import add_check
from redpencil.cli.note import add_note
from redpencil.cli.options import (
    add_option,
    add_options,
    add_several,
    add_verbosity,
    parse_columns,
    recipe_of,
    refuse_twice,
)
from redpencil.cli.report import add_report
from redpencil.cli.talk import add_chat, add_generate, add_judge
from redpencil.cli.world import add_demo, add_frontier
from redpencil.console import complain, set_verbosity
from redpencil.errors import RecipeError, RedpencilError, did_you_mean
from redpencil.places import path_of, refusals_told
from redpencil.recipes.asking import GenerateRecipe
from redpencil.recipes.foreign import foreign_option, plain
from redpencil.recipes.stages import STAGES, ResponsesRecipe

Command = Callable[[argparse.Namespace], int | None]

EPILOG = """examples:
  redpencil demo
  redpencil dpo --model Qwen/Qwen3-0.6B --data pairs.jsonl --out runs/first
  redpencil COMMAND --help      shows the options of a command and an example"""


HEAVY = ("sft", "reward", "dpo", "rl", "plan", "eval", "generate", "chat", "judge")
"""Commands that load torch and transformers."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 2 wrong input, 3 non-finite, 130; of
    `check` 1: something was found)."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's & ignores it
    try:
        args = _parse(_parser(), list(sys.argv[1:] if argv is None else argv))
        set_verbosity(getattr(args, "verbosity", "normal"))
        with refusals_told():
            _look_first(args)
            code: int | None = args.command(args)
    except RedpencilError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from the last checkpoint, if there is one")
        return 130
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        sys.stderr.close()
        return 0
    return code or 0


def _look_first(args: argparse.Namespace) -> None:
    """Refuse files and folders that are not there, before libraries are loaded that take seconds;
    other commands are quick enough to say it themselves. Raises DataError, ModelError,
    RunFolderError."""
    if args.parser.prog.split()[-1] not in HEAVY:
        return
    from redpencil.data.sources import local_files
    from redpencil.folders.run import RunFolder
    from redpencil.models.locate import refuse_absent

    for name in ("data", "eval_data"):
        if spec := getattr(args, name, None):
            local_files(spec)
    for name in ("model", "reference", "target"):
        if spec := getattr(args, name, None):
            refuse_absent(spec)
    if args.command is _train and getattr(args, "out", None):
        RunFolder.at(args.out)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    """Argparse, but a mistake is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = did_you_mean(value, action.choices)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{hint}")


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    if not argv:
        parser.print_help()
        raise SystemExit(0)
    words = [_dashed(word) for word in argv]
    args, unknown = parser.parse_known_args(words)
    if unknown:
        raise RecipeError(_unknown(args.parser, unknown[0].partition("=")[0]))
    refuse_twice(args.parser, words)
    return args


def _dashed(word: str) -> str:
    """Underscores of an option's name read as hyphens: --lora_rank is --lora-rank."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _unknown(parser: argparse.ArgumentParser, typed: str) -> str:
    """One sentence on an option that a command does not have: what other tools' name is here, else
    the nearest of ours."""
    if not typed.startswith("-"):
        return f"{parser.prog} does not know {typed!r}; see {parser.prog} --help"
    known = {o for action in parser._actions for o in action.option_strings}
    elsewhere = foreign_option(typed, map(plain, known))
    if elsewhere is not None:
        return f"{parser.prog} does not know {typed}; {elsewhere}"
    hint = did_you_mean(typed, known)
    hint = hint if hint.startswith("; did") else f"; see {parser.prog} --help"
    return f"{parser.prog} does not know {typed!r}{hint}"


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

    add_demo(command)
    add_frontier(command)
    add_check(command)
    for stage, (help, example) in _STAGE_HELP.items():
        made = command(stage, _train, help, example)
        made.set_defaults(stage=stage)
        add_options(made, stage)
        add_verbosity(made)
    _add_plan(command)
    _add_run(command)
    _add_eval(command)
    add_note(command)
    add_generate(command)
    add_chat(command)
    add_judge(command)
    add_report(command)
    _add_folder_commands(command)
    return parser


_STAGE_HELP = {
    "sft": (
        "fine-tune on demonstrations, or on the chosen side of pairs",
        "redpencil sft --model Qwen/Qwen3-0.6B-Base --data chats.jsonl --out runs/sft",
    ),
    "reward": (
        "train a reward model on preference pairs (Bradley-Terry)",
        "redpencil reward --model Qwen/Qwen3-0.6B --data pairs.jsonl --out runs/reward",
    ),
    "dpo": (
        "train on preference pairs (DPO and its family)",
        "redpencil dpo --model Qwen/Qwen3-0.6B --data pairs.jsonl --out runs/first --lora-rank 16",
    ),
    "rl": (
        "train on the policy's own completions for a reward (PPO, RLOO)",
        "redpencil rl --model runs/sft/model --data prompts.jsonl --reward runs/reward/model "
        "--out runs/rl",
    ),
}

Add = Callable[[str, Command, str, str], argparse.ArgumentParser]


def _train(args: argparse.Namespace) -> None:
    recipe = recipe_of(args)
    from redpencil.stages.run import train

    train(recipe)


def _add_plan(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        fields = STAGES[args.stage].model_fields
        for name in vars(args):
            known = name in fields or name in ("stage", "json", "time", "command", "parser")
            if not known:
                flag = name.replace("_", "-")
                raise RecipeError(f"--{flag} does nothing with --stage {args.stage}")
        args.out = "unwritten"
        recipe = recipe_of(args)
        from redpencil.plan.plan import plan
        from redpencil.plan.table import print_plan

        result = plan(recipe, measure_time=args.time)
        if args.json:
            print(json.dumps(result))
        else:
            print_plan(result)

    made = command(
        "plan",
        run,
        "will it fit, how long will it take, before any weights load",
        "redpencil plan --model Qwen/Qwen3-0.6B --data pairs.jsonl --lora-rank 16",
    )
    # What RL will take depends on what its policy will say.
    planned = {name: kind for name, kind in STAGES.items() if issubclass(kind, ResponsesRecipe)}
    made.add_argument("--stage", choices=sorted(planned), default="dpo", help="what to plan (dpo)")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument(
        "--time",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure how long steps take, for some seconds (on)",
    )
    options = {name: f for kind in planned.values() for name, f in kind.model_fields.items()}
    for name, field in options.items():
        if name not in ("stage", "out"):
            add_option(made, name, field)


def _add_run(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.recipes.file import load_stages, parse_overrides

        overrides = parse_overrides(args.overrides)
        recipes = load_stages(path_of(args.recipe), overrides)
        from redpencil.stages.run import train
        from redpencil.use.generating import generate_stage

        for recipe in recipes:
            if isinstance(recipe, GenerateRecipe):
                generate_stage(recipe)
            else:
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
    add_verbosity(made)


def _add_eval(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.use.measure import evaluate_pairs, print_evaluation

        columns = parse_columns(args.columns) if args.columns else {}
        data = getattr(args, "data", None)
        result = evaluate_pairs(args.target, data, args.reference, args.beta, columns)
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
    pairs = "pairs; default: the run's held-out ones"
    add_several(made, "--data", metavar="DATA", help=pairs)
    made.add_argument("--reference", help="reference model; default: the run's own")
    made.add_argument("--beta", type=float, metavar="N", help="of the reward (the run's, or 0.1)")
    made.add_argument("--columns", metavar="OURS=YOURS,...", help="your column names")
    made.add_argument("--json", action="store_true", help="print one JSON object")


def _add_folder_commands(command: Add) -> None:
    def export(args: argparse.Namespace) -> None:
        from redpencil.use.exporting import export

        export(path_of(args.run), path_of(args.out), step=args.step, dtype=args.dtype)

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
    made.add_argument(
        "--dtype",
        default="base",
        metavar="DTYPE",
        help="of the weights: base (that of the model the run began from), float32, bfloat16 or "
        "float16 (base)",
    )


if __name__ == "__main__":
    sys.exit(main())
