"""Which points of a plot no other point beats."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]


def pareto_optimal(points: Sequence[Point], same_cost: float = 0.0) -> list[bool]:
    """For each (cost, value) whether no other point beats it.

    A point is beaten by one that is worth more and costs no more, or that is worth as much and costs less.

    Args:
        points: costs are positive; the less the better. Values: the more the better.
        same_cost: costs that differ by at most this share count as equal. Solved plans meet a target only so nearly,
            and a latency is no more exact either.
    """
    return [not any(_beats(other, point, same_cost) for other in points) for point in points]


def pareto_front(points: Sequence[Point], same_cost: float = 0.0) -> list[Point]:
    """The optimal points by rising cost, each once: their values never fall."""
    flags = pareto_optimal(points, same_cost)
    return sorted({point for point, optimal in zip(points, flags, strict=True) if optimal})


def _beats(other: Point, point: Point, same_cost: float) -> bool:
    no_dearer = other[0] <= point[0] * (1 + same_cost)
    cheaper = other[0] * (1 + same_cost) < point[0]
    return (other[1] > point[1] and no_dearer) or (other[1] == point[1] and cheaper)
