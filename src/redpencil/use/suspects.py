"""Suspect labels: pairs that a model which has not seen them is confident are reversed.

`redpencil note RUN --suspects` looks at a run's pairs with the model it started from, `redpencil
check DATA --suspects` at any pairs, with the words alone or with a model, too. `--fix` writes the
rows anew, with the suspects dropped, flipped or softened, and a log of every change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redpencil.data.reading import Source
from redpencil.data.records import load_records
from redpencil.data.sources import Spec, named
from redpencil.doctor.fix import check_out
from redpencil.errors import DataError, RecipeError, RunFolderError
from redpencil.evals.crossfit import cross_fit
from redpencil.evals.suspicion import Suspicion, suspicion
from redpencil.folders.datafiles import same_file
from redpencil.folders.run import RunFolder
from redpencil.folders.targets import run_recipe
from redpencil.locks import alone
from redpencil.recipes.stages import DpoRecipe, RewardRecipe
from redpencil.types import Record
from redpencil.use.pair_features import (
    PairSet,
    check_features,
    model_features,
    pair_set,
    text_of,
    word_features,
)
from redpencil.use.run_data import file_hashes_of, run_data

HEADER, ROWS = "suspects.json", "suspects.jsonl"
WORDS, HIDDEN = "words", "hidden states"
FEWEST_PROMPTS = 40
"""Fewer prompts than this cannot be cut into folds that say anything; then pairs that share a
response stay together instead."""
MOST_PAIRS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Suspects:
    """What cross-fitting found. pairs: all that were judged; verdict: of them, in that order.

    header: what `suspects.json` says.
    """

    pairs: PairSet
    verdict: Suspicion
    header: Mapping[str, Any]

    @property
    def mendable(self) -> bool:
        """Whether any label is more likely wrong than right."""
        return len(self.verdict.suspects) > 0

    def rows(self) -> list[dict[str, Any]]:
        """What `suspects.jsonl` says: the most suspect pair first."""
        return [self._row(int(i)) for i in self.verdict.suspects]

    def _row(self, index: int) -> dict[str, Any]:
        record, comparison = self.pairs.records[index], self.pairs.comparisons[index]
        origin = comparison.origin or record.origin
        return {
            "file": origin.file,
            "row": origin.row,
            "prompt": text_of(record.prompt),
            "chosen": self.pairs.texts[self.pairs.chosen[index]],
            "rejected": self.pairs.texts[self.pairs.rejected[index]],
            "probability": float(self.verdict.right[index]),
            "chosen_response": comparison.chosen,
            "rejected_response": comparison.rejected,
        }


def find_suspects(
    data: Spec,
    *,
    columns: Mapping[str, str] | None = None,
    model: str | None = None,
    max_length: int | None = None,
    chat_template: str = "auto",
    separator: str | None = None,
    trust_remote_code: bool = False,
    folds: int = 5,
    seed: int = 0,
) -> Suspects:
    """Judge every pair of a data set by a regression that was fitted to the pairs of other prompts.

    model: None judges by words alone; else its hidden states count, too. folds: at least 3. Raises
    DataError where the data are malformed or too few, RecipeError for folds, ModelError.
    """
    if folds < 3:
        raise RecipeError(f"--folds {folds}: at least 3 are needed")
    if model is not None:
        check_features(model, trust_remote_code=trust_remote_code)
    records = _records(data, columns)
    features: dict[str, np.ndarray] = {}
    if model is None:
        pairs, way = pair_set(records), None
    else:
        seen = model_features(
            records,
            model,
            max_length=max_length,
            chat_template=chat_template,
            separator=separator,
            trust_remote_code=trust_remote_code,
        )
        pairs, way = seen.pairs, seen.way.name
        features[HIDDEN] = pairs.differences(seen.features)
    features[WORDS] = pairs.differences(word_features(pairs.texts))
    keys, grouped = _groups(pairs, data, folds)
    fitted = cross_fit(features, pairs.targets, keys, folds=folds, seed=seed)
    verdict = suspicion(fitted.margins, pairs.targets, keys, seed=seed)
    header = {
        "version": 1,
        "method": "cross-fitted logistic regression on differences of features",
        "data": data if isinstance(data, str) else list(data),
        "model": model,
        "forward": way,
        "features": fitted.weights,
        "folds": folds,
        "folds_by": grouped,
        "seed": seed,
        "pairs": len(pairs),
        "prompts": len(set(pairs.keys)),
        **_numbers(verdict),
    }
    return Suspects(pairs=pairs, verdict=verdict, header=header)


def _records(data: Spec, columns: Mapping[str, str] | None) -> Sequence[Record]:
    """The usable ones; what is wrong with the other rows, others say."""
    source = Source(data, "preference", columns)
    if source.joined:
        records = load_records(data, purpose="preference", columns=columns or None).records
    else:
        records = [read.record for read in source.rows() if read.record is not None]
    if not records:
        raise DataError(f"{named(data)} holds no usable pairs")
    return records


def _numbers(verdict: Suspicion) -> dict[str, Any]:
    count = len(verdict.right)
    return {
        "accuracy": verdict.accuracy,
        "accuracy_interval": list(verdict.interval),
        "noise_rate": verdict.rate,
        "noise_rate_interval": list(verdict.rate_interval),
        "cautious_noise_rate": verdict.cautious_rate,
        "expected_wrong": round(verdict.rate * count),
        "threshold": 0.5,
        "suspects": len(verdict.suspects),
        "expected_precision": verdict.expected_precision,
        "refusal": verdict.refusal,
    }


def _groups(pairs: PairSet, data: Spec, folds: int) -> tuple[Sequence[str], str]:
    """What is never parted by a fold: prompts, or, where there are few, pairs with a response in
    common. Raises DataError where there is too little of either, or too much of all."""
    if len(pairs) > MOST_PAIRS:
        raise DataError(
            f"{named(data)} holds {len(pairs):,} pairs; suspects are looked for among at most "
            f"{MOST_PAIRS:,}: give a part of it"
        )
    if len(set(pairs.keys)) >= FEWEST_PROMPTS:
        return pairs.keys, "prompt"
    keys = _connected(pairs)
    if len(set(keys)) < max(FEWEST_PROMPTS, folds):
        raise DataError(
            f"{named(data)} holds {len(pairs):,} pairs of {len(set(pairs.keys)):,} prompts: too "
            f"few to judge some by the others; at least {FEWEST_PROMPTS} prompts are needed"
        )
    return keys, "response"


def _connected(pairs: PairSet) -> list[str]:
    """A name for each set of pairs that hang together by equal responses."""
    above: dict[str, str] = {}

    def root(text: str) -> str:
        while above.setdefault(text, text) != text:
            above[text] = above[above[text]]
            text = above[text]
        return text

    for a, b in zip(pairs.chosen, pairs.rejected, strict=True):
        above[root(pairs.texts[a])] = root(pairs.texts[b])
    return [root(pairs.texts[a]) for a in pairs.chosen]


def suspects_of_run(
    run: Path, *, folds: int = 5, seed: int = 0, fix: Path | None = None
) -> tuple[Suspects, Mapping[str, str]]:
    """Judge all pairs of a run's data by the model it started from, and write `suspects.jsonl` and
    `suspects.json` into the run. Also returns what the run's columns are called.

    fix: where the mended data are to be written later; refused at once where they cannot be.
    Raises UserError.
    """
    if fix is not None:
        check_out(fix)
    recipe = run_recipe(str(run))
    if recipe is None:
        raise RunFolderError(f"{run} is not a run of redpencil; name the folder that --out named")
    if not isinstance(recipe, DpoRecipe | RewardRecipe):
        raise RunFolderError(f"{run} is a run of {recipe.stage}, which has no labelled pairs")
    with alone(run):
        return _suspects_of_run(run, recipe, folds, seed), recipe.columns


def _suspects_of_run(
    run: Path, recipe: DpoRecipe | RewardRecipe, folds: int, seed: int
) -> Suspects:
    folder = RunFolder(run)
    known = file_hashes_of(run)
    for file in known:
        if recipe.eval_data is None or file in run_data(run, recipe, "train", None).files:
            same_file(file, None, known)
    found = find_suspects(
        recipe.data,
        columns=recipe.columns,
        model=recipe.model,
        max_length=recipe.max_length,
        chat_template=recipe.chat_template,
        separator=recipe.separator,
        trust_remote_code=recipe.trust_remote_code,
        folds=folds,
        seed=seed,
    )
    folder.write_rows(ROWS, found.rows())
    folder.write(HEADER, found.header)
    return found
