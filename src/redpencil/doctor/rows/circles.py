"""Which comparisons lie on a circle: A beats B, B beats C, C beats A."""

from collections import defaultdict
from collections.abc import Collection, Iterable

Edge = tuple[int, int]
"""(winner, loser)"""
_FEW = 2000
"""Edges up to which each is followed by itself."""


def edges_on_circles(edges: Collection[Edge]) -> set[Edge]:
    """Those edges from whose loser one comes back to the winner.

    Whoever never loses, or never wins, is on no circle: taken off one after another, nothing is
    left of an order, however long. Of more than `_FEW` edges that are left all are given, though
    some may lie between two circles.
    """
    backward = {(loser, winner) for winner, loser in _without_tops(edges)}
    left = {(winner, loser) for loser, winner in _without_tops(backward)}
    if len(left) > _FEW:
        return left
    beats = _successors(left)
    return {edge for edge in left if _reaches(edge[1], edge[0], beats)}


def _without_tops(edges: Iterable[Edge]) -> set[Edge]:
    """What is left when nodes without an edge to them are taken off until there are none."""
    after = _successors(edges)
    into: dict[int, int] = defaultdict(int)
    for ends in after.values():
        for end in ends:
            into[end] += 1
    waiting = [node for node in after if not into[node]]
    while waiting:
        for end in after.pop(waiting.pop(), ()):
            into[end] -= 1
            if not into[end]:
                waiting.append(end)
    return {(start, end) for start, ends in after.items() for end in ends}


def _successors(edges: Iterable[Edge]) -> dict[int, list[int]]:
    after: dict[int, list[int]] = {}
    for start, end in edges:
        after.setdefault(start, []).append(end)
    return after


def _reaches(start: int, goal: int, after: dict[int, list[int]]) -> bool:
    seen, waiting = {start}, [start]
    while waiting:
        for end in after.get(waiting.pop(), ()):
            if end == goal:
                return True
            if end not in seen:
                seen.add(end)
                waiting.append(end)
    return False
