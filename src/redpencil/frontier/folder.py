"""The frontier's folder: one file for each finished job, so that a killed command goes on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redpencil.errors import RunFolderError
from redpencil.frontier.plan import Job
from redpencil.locks import LOCK
from redpencil.places import whole_file
from redpencil.world.settings import FrontierSettings

SETTINGS = "settings.json"


@dataclass(frozen=True, slots=True)
class FrontierFolder:
    """Paths under OUT: `sft/` (pi_ref), `world/`, `runs/` (one folder a run), `jobs/` (results),
    `logs/` (what each job said)."""

    path: Path

    @classmethod
    def at(cls, out: Path, settings: FrontierSettings) -> "FrontierFolder":
        """Make or find it. Raises RunFolderError where something else lies there."""
        folder = cls(out)
        if out.exists() and not out.is_dir():
            raise RunFolderError(f"--out {out} is a file; name a folder")
        stored = folder._read(out / SETTINGS)
        if stored is None and out.is_dir() and any(p.name != LOCK for p in out.iterdir()):
            raise RunFolderError(
                f"--out {out} is not empty and not a frontier of redpencil; nothing was written; "
                "name a new folder"
            )
        ours = json.loads(json.dumps(asdict(settings)))
        if stored is not None and stored != ours:
            raise RunFolderError(
                f"{out} was made with other settings (those of another version of redpencil); "
                "nothing was written; name a new folder"
            )
        if stored is None:
            folder.write(SETTINGS, ours)
        return folder

    @property
    def reference(self) -> Path:
        """The model pi_ref."""
        return self.path / "sft" / "model"

    def run(self, name: str) -> Path:
        return self.path / "runs" / name

    def pairs(self, seed: int) -> Path:
        return self.path / "world" / f"pairs-{seed}.jsonl"

    def preferred(self, seed: int) -> Path:
        """The chosen side of each pair, for Preferred-FT."""
        return self.path / "world" / f"preferred-{seed}.jsonl"

    def log(self, job: Job) -> Path:
        return self.path / "logs" / f"{job.name}.log"

    def result(self, name: str) -> dict[str, Any] | None:
        """What a job found; None where it has not finished."""
        return self._read(self.path / "jobs" / f"{name}.json")

    def finished(self, job: Job) -> bool:
        """A result is there, and it is of this job: the optimum's depends on its proposals."""
        found = self.result(job.name)
        return found is not None and tuple(found.get("proposals", ())) == job.proposals

    def keep(self, job: Job, result: Mapping[str, Any]) -> None:
        self.write(f"jobs/{job.name}.json", {"proposals": list(job.proposals), **result})

    def results(self, kind: str) -> list[dict[str, Any]]:
        """The results of all finished jobs of a kind, by name."""
        paths = sorted((self.path / "jobs").glob("*.json"))
        found = [self._read(path) for path in paths]
        return [f for f in found if f is not None and f.get("kind") == kind]

    def write(self, name: str, content: object) -> Path:
        """One JSON file, whole or not at all."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            json.dump(content, file, ensure_ascii=False)
        return path

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise RunFolderError(f"{path} is damaged; remove it and repeat the command")
        return content
