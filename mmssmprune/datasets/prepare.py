"""Public downloads of photographs, turned into the folders that the configs read; each file beside this one has one.

Whatever is read here was made by others: it is checked first, and one sentence says what does not fit.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

# Of the JPEG files that are written, by OpenCV's scale.
QUALITY = 92


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``root`` once everything inside the block went well.

    Raises:
        FileExistsError: there is a ``root`` already.
    """
    if root.exists():
        raise FileExistsError(f'{root} is there already; move it away or choose another --out')
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'{root.name}.partial-', dir=root.parent) as tmp:
        partial = Path(tmp) / root.name
        partial.mkdir()
        yield partial
        partial.rename(root)


def sub_folder(source: Path, name: str, example: str) -> Path:
    """``source``/``name``; raises FileNotFoundError, with an ``example`` of the layout, where it is no folder."""
    if not (source / name).is_dir():
        raise FileNotFoundError(f'{source} has no folder {name}; expected is {example}')
    return source / name


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files with these suffixes, by name, hidden ones left out; raises FileNotFoundError without any."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith('.'))
    if not found:
        raise FileNotFoundError(f'{folder} has no {" or ".join(suffixes)} files')
    return found


def read_pixels(path: Path, flags: int) -> NDArray[np.uint8]:
    """An image as OpenCV reads it with these ``flags``; raises ValueError where it is none, or not of 8 bits."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags) if path.stat().st_size else None
    if pixels is None:
        raise ValueError(f'{path} cannot be read as an image')
    if pixels.dtype != np.uint8:
        raise ValueError(f'{path} has pixels of type {pixels.dtype}, expected are 8 bits per channel')
    return pixels


def write_jpeg(path: Path, pixels: NDArray[np.uint8], quality: int = QUALITY) -> None:
    """Write (H, W, 3) BGR pixels."""
    path.write_bytes(cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def write_annotations(path: Path, images: list[dict], annotations: list[dict], names: Sequence[str]) -> None:
    """COCO's JSON file, with the categories numbered from 1 in the order of ``names``."""
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
