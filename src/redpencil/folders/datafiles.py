"""The files that a run was trained on: which they were, and whether they are still the same."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from redpencil.data.sources import Spec, local_files
from redpencil.errors import DataError
from redpencil.places import path_of


def file_hashes(*specs: Spec | None) -> dict[str, str]:
    """The hash of each local data file of these data sets, by its path; nothing for the Hub's."""
    files = (file for spec in specs if spec is not None for file in local_files(spec))
    return {str(file): _hash(file) for file in files}


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def same_file(name: str, moved_to: str | None, hashes: Mapping[str, str]) -> Path:
    """Where the data file called `name` in a run lies now. moved_to: a file, or a folder it is in.

    Raises DataError where it is not there, or holds something else than when the run began.
    """
    place = Path(name) if moved_to is None else path_of(moved_to)
    if moved_to is not None and place.is_dir():
        place = place / Path(name).name
    if not place.is_file():
        raise DataError(
            f"{place}: the run's data file is not there (seen from {Path.cwd()}); name where it "
            "lies now with --data"
        )
    if name in hashes and _hash(place) != hashes[name]:
        raise DataError(
            f"{place} changed since the run began, so its rows are no longer those that the run "
            "knows by number; name the file as it was with --data"
        )
    return place
