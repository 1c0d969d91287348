"""Is a value from a JSON file what it should be? Files of results can come from anywhere, or be half written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Longer texts and larger numbers than any report has.
_LONGEST, _LARGEST = 100_000, 10**18


@dataclass(frozen=True)
class ValueKind:
    """A value without parts: what it should be, in words, and whether it is."""

    words: str
    fits: Callable[[Any], bool]


def is_number(value: Any, low: float = -_LARGEST, high: float = _LARGEST) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def is_whole(value: Any, low: int, high: int = _LARGEST) -> bool:
    return isinstance(value, int) and is_number(value, low, high)


def is_text(value: Any, longest: int = _LONGEST) -> bool:
    return isinstance(value, str) and len(value) <= longest


def one_of(*words: str) -> ValueKind:
    return ValueKind(f'one of {", ".join(words)}', lambda value: isinstance(value, str) and value in words)


TEXT = ValueKind('a text', is_text)
NAME = ValueKind('a text of at most 1000 characters', lambda value: is_text(value, 1000))
NUMBER = ValueKind('a number', is_number)
COUNT = ValueKind('a whole number, 0 or more', lambda value: is_whole(value, 0))
NOTHING = ValueKind('null', lambda value: value is None)
ANYTHING = ValueKind('anything', lambda value: True)
_LENGTHS = {'shape': 2, 'padded_shape': 2}
_NEVER_EMPTY = ('tables', 'rows', 'metrics', 'keep_ratio', 'runs_ms', 'tests')


def check(value: Any, kind: Any, where: str = '') -> str:
    """Compare a value from a JSON file with what it should be.

    Args:
        value: of any kind.
        kind: a `ValueKind`, or of such a dict, which states its keys, with ? those that may be missing, and by * what
            all others hold (other keys are ignored); a list, which states what all its items are; a tuple of
            alternatives.
        where: path of the value, for the message.

    Returns:
        What is wrong, naming the field; empty where nothing is.
    """
    if isinstance(kind, tuple):
        return _check_alternatives(value, kind, where)
    if isinstance(kind, dict):
        return _check_dict(value, kind, where) if isinstance(value, dict) else _say(value, where, 'an object')
    if isinstance(kind, list):
        return _check_list(value, kind[0], where) if isinstance(value, list) else _say(value, where, 'a list')
    return '' if kind.fits(value) else _say(value, where, kind.words)


def _check_alternatives(value: Any, kinds: tuple, where: str) -> str:
    wrong = [check(value, kind, where) for kind in kinds]
    if not all(wrong):
        return ''
    # Of null and an object, or of two objects, the one that was meant tells what is wrong in it.
    if isinstance(value, dict) and 'run' in value:
        return wrong[-1] if value['run'] == 'measured' else wrong[0]
    same = [type(kind) is type(value) for kind in kinds]
    return wrong[same.index(True)] if any(same) else wrong[-1]


def _check_dict(value: dict, kinds: dict, where: str) -> str:
    for name, kind in kinds.items():
        key = name.removesuffix('?')
        inside = f'{where}.{key}' if where else key
        if name == '*':
            wrong = next((w for k in value if (w := check(value[k], kind, f'{where}.{k}'))), '')
        elif key in value:
            wrong = check(value[key], kind, inside)
        else:
            wrong = '' if name.endswith('?') else f'{inside} is missing'
        if wrong:
            return wrong
    return ''


def _check_list(value: list, kind: Any, where: str) -> str:
    name = where.rsplit('.', 1)[-1]
    if len(value) != _LENGTHS.get(name, len(value)) or (not value and name in _NEVER_EMPTY):
        return f'{where} has {len(value)} entries'
    return next((w for i, item in enumerate(value) if (w := check(item, kind, f'{where}[{i}]'))), '')


def _say(value: Any, where: str, words: str) -> str:
    shown = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    shown = shown if len(shown) <= 60 else f'{shown[:57]}...'
    return f'{where} should be {words}, got {shown}'
