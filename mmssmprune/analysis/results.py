"""Raw measurements as one JSON file each, so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmssmprune.checkpoints.writing import write_whole


class ResultStore:
    """A folder of measurements, found again by everything that they depend on.

    Args:
        folder: made when the first result is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: dict[str, Any]) -> Any | None:
        """The value stored under ``key``, or None. An unreadable or foreign file counts as not there."""
        try:
            record = json.loads(self.path(key).read_text(encoding='utf-8'))
            return record['value'] if record['key'] == _plain(key) else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def put(self, key: dict[str, Any], value: Any) -> None:
        """Store ``value``; ``key['what']`` and ``key['model']`` also name the file."""
        created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
        record = {'key': key, 'value': value, 'created': created}
        write_whole(self.path(key), json.dumps(record, indent=1))

    def path(self, key: dict[str, Any]) -> Path:
        """The file of a key's value, which may not exist yet."""
        readable = re.sub(r'[^\w.+-]+', '_', f'{key["what"]}-{key["model"]}')[:120]
        return self.folder / f'{readable}-{digest(key)[:16]}.json'


def digest(value: Any) -> str:
    """SHA-256 of a value made of dicts, lists, strings and numbers, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    sha = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def without_nan(value: Any) -> Any:
    """The same with null for NaN and infinite numbers, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_output(folder: str | Path, option: str = '--out') -> None:
    """Find out before long work whether a folder can be made and written to; nothing of it stays.

    Raises:
        RuntimeError: it cannot; the message says why.
    """
    folder = Path(folder)
    try:
        # Below a file nothing exists, so the first that does is the folder itself, one around it, or that file.
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(0, f'{nearest} is no folder')
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise RuntimeError(f'{option} {folder} cannot be written to: {error.strerror or error}') from error


def check_output_file(path: str | Path, option: str) -> None:
    """`check_output` for one file.

    Raises:
        RuntimeError: its folder cannot be written to, or a folder is in its place.
    """
    if Path(path).is_dir():
        raise RuntimeError(f'{option} {path} is a folder; name a file')
    check_output(Path(path).parent, f'the folder of {option}')


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
