"""Look into many image files at once, with the eyes of the loader that will read them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mmcv
import numpy as np
from PIL import Image

from mmssmprune._stack import make_torchvision_importable

from .check_findings import Findings

make_torchvision_importable()  # the data sets of mmseg and mmpretrain, which every check loads, import it
Depth = Literal['names', 'headers', 'pixels']
BLOCK = 10000  # files that wait for a thread at once; ImageNet's million would take a gigabyte
# (what comes, how many, what it is) -> the same, with a progress bar beside it
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.jp2', '.gif')
# Formats whose header says what each decoder yields, unless a tag turns the image. All others are decoded.
TOLD_BY_HEADER = {
    'cv2': ('JPEG', 'MPO', 'PNG', 'BMP', 'PPM'),
    'pillow': ('JPEG', 'MPO', 'PNG', 'BMP', 'PPM'),
    'turbojpeg': ('JPEG', 'MPO'),
}
ORIENTATION = 0x0112  # the EXIF tag


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


class Decoder(NamedTuple):
    """How a pipeline decodes: ``backend`` and ``flag`` of ``mmcv.imfrombytes``."""

    backend: str = 'cv2'
    flag: str = 'color'


class Size(NamedTuple):
    """Of an image as the loader yields it, in pixels; ``turned`` where it obeyed an orientation tag."""

    width: int
    height: int
    turned: bool = False


def image_size(path: str | Path, depth: Depth, decoder: Decoder) -> Size | str:
    """The size of an image once it is loaded, or in words why it cannot be read.

    mmcv turns an image by its EXIF orientation, as long as backend and flag do not forbid it. Such images, and those
    whose format Pillow and mmcv may see differently, are decoded; of the others the header tells.
    """
    turned = False
    try:
        with Image.open(path) as image:
            try:
                if depth == 'pixels':
                    image.load()
            except Exception as error:
                return in_words(error, path)
            turned = decoder.flag in ('color', 'grayscale') and _orientation(image) not in (0, 1)
            turned = turned and decoder.backend in ('cv2', 'pillow')
            if not turned and image.format in TOLD_BY_HEADER.get(decoder.backend, ()):
                return Size(*image.size)
    except Exception as error:  # Pillow's plugins raise anything on garbage; mmcv may know the format
        array = decode(path, decoder)
        return in_words(error, path) if isinstance(array, str) else Size(array.shape[1], array.shape[0])
    array = decode(path, decoder)
    return array if isinstance(array, str) else Size(array.shape[1], array.shape[0], turned)


def _orientation(image: Image.Image) -> int:
    if image.format == 'PNG' and 'exif' not in image.info:  # Pillow would decode the whole file to look for it
        return 1
    return image.getexif().get(ORIENTATION, 1)


def decode(path: str | Path, decoder: Decoder) -> np.ndarray | str:
    """The pixels of an image file, (height, width) or (height, width, channels), or in words why there are none."""
    try:
        array = mmcv.imfrombytes(Path(path).read_bytes(), flag=decoder.flag, backend=decoder.backend)
    except Exception as error:  # each backend raises its own kinds
        return in_words(error, path)
    if array is None or array.ndim < 2 or 0 in array.shape:
        return f'no image that {decoder.backend} can decode'
    return array


def check_sizes(paths: dict[str, str], how: How, decoder: Decoder, findings: Findings) -> dict[str, Size]:
    """Sizes of images (path -> name for sentences) by path; a finding for each that is unreadable or a speck."""
    if how.depth == 'names':
        return {}
    sizes = {}
    looks = how.map(lambda path: image_size(path, how.depth, decoder), list(paths), f'{findings.part} images')
    for (path, name), size in zip(paths.items(), looks, strict=True):
        if isinstance(size, str):
            findings.add('{n} images cannot be read', f'{name} ({size})')
            continue
        sizes[path] = size
        if min(size.width, size.height) <= 1:
            findings.add('{n} images are one pixel wide or high', f'{name} is {size.width}x{size.height}')
        if size.turned:
            text = '{n} images carry an orientation tag, by which the loader turns or mirrors them; annotations have '
            findings.add(text + 'to fit the turned image', name, note=True)
    return sizes


def loaded_entries(dataset: Any, findings: Findings) -> list[dict[str, Any]] | None:
    """What a lazily built dataset yields, as its class reads and filters it; None, and a finding, if it cannot."""
    try:
        dataset.serialize_data = False  # it fails on an empty list
        with redirect_stdout(io.StringIO()):  # pycocotools talks
            dataset.full_init()
        entries = dataset.data_list
    except Exception as error:  # whatever a class may raise, it would end the training
        text = in_words(error)
        findings.add(f'{type(dataset).__name__} cannot load it ({text if len(text) < 200 else text[:200] + " ..."})')
        return None
    if not all(isinstance(entry, dict) for entry in entries):
        findings.add(f'{type(dataset).__name__} yields something other than dicts')
        return None
    return entries


def in_words(error: BaseException, path: str | Path = '') -> str:
    """An error on one line, without the path that the sentence names anyway."""
    text = ' '.join(str(error).split()).replace(f'{str(path)!r}', '').strip() if path else ' '.join(str(error).split())
    bare = isinstance(error, (OSError, SyntaxError, ValueError)) and text
    return text if bare else f'{type(error).__name__}: {text}'.rstrip(': ')


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
