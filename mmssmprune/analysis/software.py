"""With what a number was made: package versions, and a hash of our own source."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import mmssmprune

# What Python leaves beside the source.
_LEFTOVERS = ('.pyc', '.pyo', '.so')


@dataclass(frozen=True)
class Software:
    """What a row was measured with: package versions and a hash of our own source."""

    versions: Mapping[str, str]
    source: str


@cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; of mmpretrain where a config of classification has brought it in."""
    found = {name: import_module(name).__version__ for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg')}
    if 'mmpretrain' in sys.modules:
        found['mmpretrain'] = sys.modules['mmpretrain'].__version__
    return {'mmssmprune': mmssmprune.__version__, 'python': platform.python_version(), **found}


@cache
def software() -> dict[str, Any]:
    """Versions and our own source: a changed model must not find results of the old one."""
    root = Path(mmssmprune.__file__).parent
    return {'versions': versions(), 'source': source_hash(root, ('ops', 'pruning', 'models'))[:16]}


def this_software() -> Software:
    """`software` as rows of a report carry it."""
    return Software(**software())


def source_hash(root: Path, names: Sequence[str]) -> str:
    """SHA-256 of source files and of all files in source folders below ``root``, compiled ones and caches left out.

    A name that does not exist counts as empty.
    """
    sha = hashlib.sha256()
    for name in names:
        place = root / name
        for path in sorted(place.rglob('*')) if place.is_dir() else [place]:
            if path.is_file() and path.suffix not in _LEFTOVERS and '__pycache__' not in path.parts:
                sha.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return sha.hexdigest()


def software_difference(row: Software, reference: Software) -> str:
    """``torch 2.4.0 instead of 2.13.0, other source of mmssmprune``; empty if they are equal."""
    said = [
        f'{name} {row.versions.get(name, "absent")} instead of {reference.versions.get(name, "absent")}'
        for name in dict.fromkeys([*reference.versions, *row.versions])
        if row.versions.get(name) != reference.versions.get(name)
    ]
    if row.source != reference.source:
        said.append("another state of mmssmprune's ops, pruning or models")
    return ', '.join(said)
