"""Arguments that come from configs: each is what it has to be, or one sentence says what it was and should be."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether a value is an integer, NumPy's among them; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number, NumPy's among them; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_list(value: Any) -> bool:
    """Whether a value is a sequence, but no text; an array counts."""
    return (isinstance(value, Sequence) and not isinstance(value, (str, bytes))) or getattr(value, 'ndim', 0) > 0


def whole(name: str, value: Any, smallest: int = 1) -> int:
    """A whole number from ``smallest`` on; raises ValueError for anything else."""
    if not is_whole(value) or value < smallest:
        raise ValueError(f'{name} must be a whole number from {smallest} on, got {value!r}')
    return int(value)


def rate(name: str, value: Any) -> float:
    """A number from 0 to below 1; raises ValueError for anything else."""
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f'{name} must be a number from 0 to below 1, got {value!r}')
    return float(value)


def positive(name: str, value: Any) -> float:
    """A number above 0; raises ValueError for anything else."""
    if not is_number(value) or not value > 0:
        raise ValueError(f'{name} must be a number above 0, got {value!r}')
    return float(value)


def flag(name: str, value: Any) -> bool:
    """True or False; raises ValueError for anything else, for a text that says so too."""
    if not isinstance(value, bool) and type(value).__name__ not in ('bool_', 'bool'):  # NumPy's has its own type
        raise ValueError(f'{name} must be True or False, got {value!r}')
    return bool(value)


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A dict, None being an empty one; raises ValueError for anything else."""
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f'{name} must be a dict, got {value!r}')
    return dict(value or {})


def arguments(name: str, value: Any, function: Callable, given: Sequence[str]) -> dict[str, Any]:
    """A dict of keyword arguments of ``function`` but for those in ``given``; raises ValueError for unknown ones."""
    value = mapping(name, value)
    known = [key for key in inspect.signature(function).parameters if key not in given]
    unknown = [key for key in value if key not in known]
    if unknown:
        raise ValueError(f'{name} has an unknown key {unknown[0]!r}; the keys are {", ".join(known)}')
    return value


def sides(name: str, value: Any) -> tuple[int, int]:
    """(H, W) in pixels, from such a pair or the side of a square; raises ValueError for anything else."""
    pair = list(value) if is_list(value) else [value, value]
    if len(pair) != 2 or not all(is_whole(side) and side > 0 for side in pair):
        raise ValueError(f'{name} must be a whole number of pixels above 0, or (H, W), got {value!r}')
    return int(pair[0]), int(pair[1])
