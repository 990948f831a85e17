"""Floors: a file imports only from lower floors or its own room; lazy imports count too."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "redpencil"

FLOORS = {
    "types": 0,
    "errors": 0,
    "console": 0,
    "intervals": 0,
    "movable": 0,
    "places": 0,
    "locks": 0,
    "data": 1,
    "objectives": 1,
    "optim": 1,
    "world": 1,
    "notebook": 1,
    "report": 1,
    "doctor": 2,
    "models": 2,
    "scores": 3,
    "rollout": 4,
    "engine": 5,
    "evals": 5,
    # F6, the composition root, is a house of its own: each room stands on the ones before it.
    "recipes": 6,
    "folders": 7,
    "fit": 7,
    "stages": 8,
    "plan": 9,
    "use": 9,
    "frontier": 10,
    "cli": 11,
    "__main__": 12,
}

MAY_IMPORT = {
    "types": {"movable"},
    "places": {"console", "errors"},
    "locks": {"console", "errors", "places"},
    "world": {"types", "errors"},
    "notebook": {"types", "errors", "intervals"},
    "report": {"types", "errors", "intervals", "notebook", "locks", "places"},
}

FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Modules of redpencil that a file imports anywhere in it, without the package's own name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            module = node.module or ""
            names |= {f"{module}.{a.name}" for a in node.names if _is_module(f"{module}.{a.name}")}
            names.add(module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {n.removeprefix("redpencil.") for n in names if n.startswith("redpencil.")}


def _is_module(name: str) -> bool:
    place = SOURCE.parent.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def imported_rooms(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_only_from_below(path):
    room = room_of(path)
    if room == "__init__":  # names the public ones, imports when they are used
        return
    for other in imported_rooms(path) - {room}:
        allowed = MAY_IMPORT.get(room)
        if allowed is not None:
            assert other in allowed, f"{room} imports {other}"
        else:
            assert FLOORS[other] < FLOORS[room], f"{room} (F{FLOORS[room]}) imports {other}"


def test_no_file_imports_itself_by_way_of_others():
    graph = {
        path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", "."): imported_modules(
            path
        )
        for path in FILES
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"cycle: {' -> '.join([*above, name])}"
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


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
        assert text.count("\n") <= 400, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}:{node.lineno} {node.name}"


def test_nothing_is_pickled():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle", "torch.save(", "torch.load("):
            assert word not in text, f"{path}: {word}"
