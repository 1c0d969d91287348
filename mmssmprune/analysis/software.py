"""With what a number was made: package versions, and a hash of our own source."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import mmssmprune
from mmssmprune.analysis.comparison.rows import Software

# What Python leaves beside the source.
_LEFTOVERS = ('.pyc', '.pyo', '.so')


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
