"""Floors: a file imports only from lower floors or its own room; lazy imports count too."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "redpencil"

FLOORS = {
    "types": 0,
    "errors": 0,
    "console": 0,
    "data": 1,
    "objectives": 1,
    "optim": 1,
    "world": 1,
    "report": 1,
    "models": 2,
    "scores": 3,
    "rollout": 4,
    "engine": 5,
    "evals": 5,
}
ROOT = 6
"""Every other file beside the rooms belongs to the composition root."""

MAY_IMPORT = {"world": {"types", "errors"}, "report": {"types", "errors"}}

FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of redpencil that a file imports anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            module = node.module or ""
            names = (
                [f"{module}.{a.name}" for a in node.names] if module == "redpencil" else [module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {n.split(".")[1] for n in names if n.startswith("redpencil.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_only_from_below(path):
    room = room_of(path)
    floor = FLOORS.get(room, ROOT)
    for other in imported_rooms(path) - {room}:
        allowed = MAY_IMPORT.get(room)
        if allowed is not None:
            assert other in allowed, f"{room} imports {other}"
        elif floor < ROOT:
            assert FLOORS.get(other, ROOT) < floor, f"{room} (F{floor}) imports {other}"


def test_the_root_has_no_cycle():
    graph = {
        room_of(p): {r for r in imported_rooms(p) if FLOORS.get(r, ROOT) == ROOT}
        for p in FILES
        if FLOORS.get(room_of(p), ROOT) == ROOT and p.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(room: str, above: tuple[str, ...]) -> None:
        assert room not in above, f"cycle: {' -> '.join([*above, room])}"
        if room not in done:
            for other in graph.get(room, ()):
                visit(other, (*above, room))
            done.add(room)

    for room in graph:
        visit(room, ())


def test_only_load_knows_automodel():
    for path in FILES:
        if path.relative_to(SOURCE).as_posix() != "models/load.py":
            assert "AutoModel" not in _code(path), f"{path} imports AutoModel"


def _code(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom)]
    return {a.name.split("For")[0] for n in imports for a in n.names}


def test_functions_fit_a_screen_and_files_are_one_idea():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 350, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}:{node.lineno} {node.name}"


def test_nothing_is_pickled():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle", "torch.save(", "torch.load("):
            assert word not in text, f"{path}: {word}"
