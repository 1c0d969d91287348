"""Look into many image files at once: their headers, or their pixels too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from .check_findings import Findings

Depth = Literal['names', 'headers', 'pixels']
BLOCK = 10000  # files that wait for a thread at once; ImageNet's million would take a gigabyte
# (what comes, how many, what it is) -> the same, with a progress bar beside it
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class How:
    """How far to look.

    Attributes:
        depth: 'names' opens only annotation files, 'headers' reads the size of every image and the pixels of every
            label map, 'pixels' decodes every image too, which finds files that were cut short.
        workers: threads. Reading and decoding leave Python's lock alone.
        track: shows progress.
    """

    depth: Depth = 'headers'
    workers: int = 8
    track: Track = lambda items, total, what: items

    def map(self, look: Callable[[Any], Any], items: list[Any], what: str) -> Iterator[Any]:
        """``look`` at every item in threads; results in order."""
        with ThreadPoolExecutor(self.workers) as pool:
            blocks = (items[i : i + BLOCK] for i in range(0, len(items), BLOCK))
            yield from self.track((result for block in blocks for result in pool.map(look, block)), len(items), what)


def image_size(path: Path, depth: Depth) -> tuple[int, int] | str:
    """(width, height) in pixels, or in words why the file cannot be read."""
    try:
        with Image.open(path) as image:
            if depth == 'pixels':
                image.load()
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return ' '.join(str(error).split()).replace(f'{str(path)!r}', '').strip() or type(error).__name__


def files_in(folder: Path, suffixes: tuple[str, ...], findings: Findings) -> dict[str, Path] | None:
    """Files of a folder and below it by their path inside it, with '/'; None, and a finding, if there are none.

    ``suffixes`` in lower case; those of the files may be in any.
    """
    if not folder.is_dir():
        findings.add(f'the folder {folder} does not exist')
        return None
    walk = os.walk(folder, followlinks=True)  # data sets are often linked together from several disks
    found = (Path(base, name) for base, _, names in walk for name in names if name.lower().endswith(suffixes))
    files = {path.relative_to(folder).as_posix(): path for path in sorted(found)}
    if not files:
        findings.add(f'the folder {folder} holds no {" or ".join(suffixes)} files')
    return files or None
