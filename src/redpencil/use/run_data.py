"""The data that the pairs of a run came from, and where their files lie now."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from redpencil.data.formats import format_of
from redpencil.data.sources import Spec, specs_of
from redpencil.errors import RunFolderError
from redpencil.folders.datafiles import same_file
from redpencil.folders.run import RunFolder
from redpencil.places import path_of
from redpencil.recipes.stages import Recipe

Place = tuple[str, int]
"""A data file, as the run calls it, and a row of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """spec: the data set, as the recipe names it. moved_to: where it lies now, if it was moved.
    hashes: of its files when the run began; empty where the run did not keep them."""

    spec: Spec
    moved_to: str | None
    hashes: Mapping[str, str]

    @property
    def spec_now(self) -> Spec:
        """The data set by now."""
        if self.moved_to is None:
            return self.spec
        place = path_of(self.moved_to)
        files = [one for one in specs_of(self.spec) if format_of(one) is not None]
        if not place.is_dir() or not files:
            return str(place)
        return tuple(str(place / Path(one).name) for one in files)

    @property
    def files(self) -> list[str]:
        """The data set's files when the run began, as far as the run kept what they were."""
        own = {str(file) for file in self._local()}
        return [file for file in self.hashes if file in own or self._below(file)]

    def _local(self) -> list[Path]:
        return [path_of(one) for one in specs_of(self.spec)]

    def _below(self, file: str) -> bool:
        """Whether a folder, or a pattern, of the data holds a file."""
        return any(
            whole in Path(file).parents or fnmatch(file, str(whole)) for whole in self._local()
        )

    def path_of(self, file: str) -> str:
        """Where a file lies by now; the name itself of a data set on the Hub.

        Raises DataError where it is not there, or holds something else than when the run began.
        """
        on_the_hub = file in specs_of(self.spec) and format_of(file) is None
        return file if on_the_hub else str(same_file(file, self.moved_to, self.hashes))

    def name_of(self, path: str) -> str:
        """What the run calls a file that lies there now."""
        if self.moved_to is None:
            return path
        name = Path(path).name
        return next((file for file in self.files if Path(file).name == name), path)


def run_data(run: Path, recipe: Recipe, split: str, moved_to: str | None) -> RunData:
    """The data of a run's training ("train") or held-out ("eval") pairs."""
    held_out = split == "eval" and recipe.eval_data is not None
    spec = recipe.eval_data if held_out else recipe.data
    return RunData(spec=spec or "", moved_to=moved_to, hashes=file_hashes_of(run))


def file_hashes_of(run: Path) -> Mapping[str, str]:
    """The hashes of the data files when a run began; none where it did not say them yet, or was
    trained by an earlier version. Raises RunFolderError where what it said is damaged."""
    if not (run / "data.json").exists():
        return {}
    known = RunFolder(run).read("data.json").get("files", {})
    if not isinstance(known, Mapping):
        raise RunFolderError(f"{run / 'data.json'} is damaged: its files are no JSON object")
    return known
