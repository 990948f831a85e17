"""What a function's source says: ours takes the place of theirs only where that is known."""

import ast
import inspect
import textwrap
from functools import cache
from typing import Any


@cache
def says(function: Any, *bodies: str, takes: int | None = None) -> bool:
    """Whether a function's statements are one of these bodies, but for its docstring, comments and
    how lines are broken. Not where it is wrapped: what the wrapper does is not known. takes: how
    many arguments a method has beside itself."""
    if hasattr(function, "__wrapped__"):
        return False
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # no source, or no function
        return False
    if not isinstance(node, ast.FunctionDef):
        return False
    if takes is not None and len(inspect.signature(function).parameters) != 1 + takes:
        return False
    said = node.body[1:] if ast.get_docstring(node) else node.body
    return any(_dumped(said) == _dumped(ast.parse(body).body) for body in bodies)


def _dumped(statements: list[ast.stmt]) -> list[str]:
    return [ast.dump(statement) for statement in statements]
