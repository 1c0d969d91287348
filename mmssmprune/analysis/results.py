"""Raw measurements as one JSON file each, so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any


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
        except (OSError, ValueError):
            return None
        same = isinstance(record, dict) and record.get('key') == _plain(key)
        return record.get('value') if same else None

    def put(self, key: dict[str, Any], value: Any) -> None:
        """Store ``value``; ``key['what']`` and ``key['model']`` also name the file."""
        created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
        record = {'key': key, 'value': value, 'created': created}
        write_atomically(self.path(key), json.dumps(record, indent=1))

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


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all: under a temporary name first, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_bytes(content.encode('utf-8') if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
