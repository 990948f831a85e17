"""The commands that sample and judge: generate, chat, judge."""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel

from redpencil.cli.options import add_option, dashed, parse_columns
from redpencil.errors import RecipeError
from redpencil.recipes.asking import GenerateRecipe, JudgeRecipe
from redpencil.recipes.checked import Options, validated

Command = Callable[[argparse.Namespace], None]
Add = Callable[[str, Command, str, str], argparse.ArgumentParser]


def add_generate(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        recipe = _recipe(GenerateRecipe, args, skip={"prompt"})
        from redpencil.use.generating import generate

        generate(recipe, args.prompt)

    made = command(
        "generate",
        run,
        "sample completions, and label preferences between them",
        'redpencil generate runs/first --prompt "Once upon a time" --num 4\n'
        "  redpencil generate runs/sft --data prompts.jsonl --num 4 --label runs/reward "
        "--out pairs.jsonl",
    )
    made.add_argument("model", metavar="RUN|MODEL")
    made.add_argument("--prompt", action="append", default=[], help="may be given several times")
    _add_fields(made, GenerateRecipe, skip=("stage", "model"))


def add_chat(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.use.talk import chat

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


def add_judge(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        recipe = _recipe(JudgeRecipe, args, skip={"json"})
        from redpencil.use.judging import judge, print_judgement

        result = judge(recipe)
        if args.json:
            print(json.dumps(result))
        else:
            print_judgement(result, recipe.out)

    made = command(
        "judge",
        run,
        "the win rate of A over B on held-out prompts",
        "redpencil judge runs/dpo runs/sft --data prompts.jsonl --by runs/reward --out runs/judged"
        "\n  redpencil judge runs/dpo data:chosen --data test_pairs.jsonl --out runs/judged-2 "
        "--judge-url http://localhost:8000/v1 --judge-model Qwen/Qwen3-8B",
    )
    made.add_argument("a", metavar="A", help=JudgeRecipe.model_fields["a"].description)
    made.add_argument("b", metavar="B", help=JudgeRecipe.model_fields["b"].description)
    _add_fields(made, JudgeRecipe, skip=("a", "b"))
    made.add_argument("--json", action="store_true", help="print one JSON object")


def _add_fields(
    parser: argparse.ArgumentParser, kind: type[BaseModel], *, skip: Iterable[str]
) -> None:
    own = kind.__annotations__  # what is the command's own comes first
    for name in sorted(kind.model_fields, key=lambda field: field not in own):
        if name not in skip:
            add_option(parser, name, kind.model_fields[name])


def _recipe(kind: type[Options], args: argparse.Namespace, *, skip: set[str]) -> Options:
    """The options that were given, checked. Raises RecipeError."""
    fields = kind.model_fields
    given: dict[str, Any] = {k: v for k, v in vars(args).items() if k in fields and k not in skip}
    if "columns" in given:
        given["columns"] = parse_columns(given["columns"])
    if "price" in given:
        given["price"] = [part.strip() for part in given["price"].split(",")]
    try:
        return validated(kind, given)
    except RecipeError as error:
        raise RecipeError(dashed(str(error), fields)) from None
