"""Recipe files: several stages in one YAML, with `key=value` overrides from the command line.

    out: runs/two-stages
    model: Qwen/Qwen3-0.6B
    seed: 1
    stages:
      - stage: sft
        data: demonstrations.jsonl
      - stage: dpo
        data: pairs.jsonl
        beta: 0.2

Options beside the list go to every stage that knows them. A stage after the first starts from the
last model that was trained before it, unless it names its own. A stage `generate` samples from that
model and labels pairs (`num`, `label`, ...), which are the data of the next dpo or reward stage
unless that names its own: two rounds of generate and dpo are iterative DPO. A reward model is no
model to start from: later stages name it as their `label` or `reward`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from redpencil.errors import RecipeError, did_you_mean
from redpencil.places import text_of
from redpencil.recipes.asking import PAIRS, GenerateRecipe
from redpencil.recipes.checked import validated
from redpencil.recipes.stages import STAGES, Recipe, make_recipe

GENERATE = "generate"
OPTIONS = {name: kind.model_fields for name, kind in STAGES.items()} | {
    GENERATE: GenerateRecipe.model_fields
}
"""The options of every stage that a file can have."""

ON_PREFERENCES = ("dpo", "reward")
"""Stages that take the pairs of the generate stage before them."""


def load_stages(path: Path, overrides: Mapping[str, Any]) -> list[Recipe | GenerateRecipe]:
    """The recipes of a file's stages, in order.

    overrides: `beta: 0.2` goes to every stage that knows it, `dpo.beta: 0.2` to stages of that
    name; both win over the file. A run's own `recipe.yaml` is a file of one stage, which goes on in
    that run's folder unless an override names another `out`. Raises RecipeError.
    """
    content = _read(path)
    if "stages" not in content and content.get("stage") in list(STAGES):  # it may be a list
        return [_of_a_run(content, path, overrides)]
    stages = content.pop("stages", None)
    if not isinstance(stages, list) or not stages or not all(isinstance(s, dict) for s in stages):
        raise RecipeError(f"{path} needs a list of stages, such as  stages: [{{stage: dpo}}]")
    names = [_stage_name(path, number, s) for number, s in enumerate(stages, start=1)]
    _refuse_unknown(path, [*content, *overrides], names)
    top = {**content, **{k: v for k, v in overrides.items() if k == "out"}}
    if "out" not in top:
        raise RecipeError(f"{path} needs `out`, the folder for the runs of its stages")
    recipes: list[Recipe | GenerateRecipe] = []
    found: dict[str, str] = {}  # what earlier stages leave to later ones: a model, pairs
    for number, (name, own) in enumerate(zip(names, stages, strict=True), start=1):
        where = f"{path}, stage {number}"
        explicit = {**own, **_dotted(name, overrides)}
        out = str(explicit.get("out", Path(str(top["out"])) / f"{number}-{name}"))
        left = {"model": found.get("model"), "data": found.get("pairs")}
        if name not in ON_PREFERENCES:
            left.pop("data")
        chained = {k: v for k, v in left.items() if v is not None and k not in explicit}
        options = {**_merged(name, top, own, overrides), **chained, "out": out}
        if name == GENERATE:
            recipes.append(_generate(options, where))
            found["pairs"] = str(Path(out) / PAIRS)
        else:
            recipes.append(make_recipe(name, options, where=where))
            if name != "reward":
                found["model"] = str(Path(out) / "model")
    return recipes


def _of_a_run(content: Mapping[str, Any], path: Path, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe that a run keeps of itself: every option is there, also those that it was not
    asked for and those that were resolved."""
    name = content["stage"]
    _refuse_unknown(path, list(overrides), [name])
    plain = {k: v for k, v in overrides.items() if "." not in k}
    given = {**plain, **_dotted(name, overrides)}
    fields = OPTIONS[name]
    resolved = {"max_steps"} if "epochs" in given else set()
    stored = {
        k: v
        for k, v in content.items()
        if k not in resolved and (k not in fields or v != fields[k].default)
    }
    return make_recipe(name, {**stored, **given}, where=str(path))


def _generate(options: Mapping[str, Any], where: str) -> GenerateRecipe:
    """A stage that makes preferences: it must say of what prompts and by whom."""
    recipe = validated(GenerateRecipe, options, where=where)
    if recipe.data is None:
        raise RecipeError(f"{where}: 'data' is missing: {OPTIONS[GENERATE]['data'].description}")
    if not recipe.labelled:
        raise RecipeError(f"{where}: a generate stage needs label (a reward) or judge_url")
    return recipe


def parse_override(text: str) -> tuple[str, Any]:
    """`"dpo.beta=0.2"` -> `("dpo.beta", 0.2)`. Raises RecipeError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"{text!r} is not of the form key=value")
    try:
        return key.replace("-", "_"), yaml.safe_load(value)
    except yaml.YAMLError:
        return key.replace("-", "_"), value


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Several of them. Raises RecipeError where a key is given twice."""
    found: dict[str, Any] = {}
    for key, value in map(parse_override, texts):
        if key in found:
            raise RecipeError(f"{key} is given twice: {found[key]!r} and {value!r}")
        found[key] = value
    return found


class _Once(yaml.SafeLoader):
    """YAML in which a key stands once: the plain loader keeps the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for at, key in enumerate(keys) if key in keys[:at]), None)
        if twice is not None:
            line = node.value[len(keys) - 1 - keys[::-1].index(twice)][0].start_mark.line + 1
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice!r} is given twice, again in line {line}"
            )
        return super().construct_mapping(node, deep)


def _merged(
    name: str, top: Mapping[str, Any], own: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    known = OPTIONS[name]
    shared = {k: v for k, v in top.items() if k in known}
    plain = {k: v for k, v in overrides.items() if k in known}
    return {**shared, **own, **plain, **_dotted(name, overrides)}


def _dotted(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides for stages of one name: `dpo.beta=0.2`."""
    start = f"{name}."
    return {k.removeprefix(start): v for k, v in overrides.items() if k.startswith(start)}


def _stage_name(path: Path, number: int, stage: Mapping[str, Any]) -> str:
    name = stage.get("stage")
    if not isinstance(name, str) or name not in OPTIONS:
        known = did_you_mean(str(name), OPTIONS)
        raise RecipeError(f"{path}, stage {number}: unknown stage {name!r}{known}")
    return name


def _refuse_unknown(path: Path, keys: list[str], names: list[str]) -> None:
    """A key beside the stages must mean something to one of them."""
    known = {field for name in names for field in OPTIONS[name]} - {"stage"}
    for key in keys:
        stage, dot, _ = key.partition(".")
        if dot and stage not in names:
            raise RecipeError(f"{path} has no stage {stage!r}{did_you_mean(stage, names)}")
        if not dot and key not in known:
            raise RecipeError(f"{path}: unknown option {key!r}{did_you_mean(key, known)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(text_of(path), _Once)
    except FileNotFoundError:
        raise RecipeError(f"recipe {path} does not exist") from None
    except yaml.constructor.ConstructorError as error:
        raise RecipeError(f"recipe {path}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {path} must be a mapping of options")
    return content
