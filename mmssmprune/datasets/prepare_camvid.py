"""CamVid from the SegNet tutorial: CamVid/{train,trainannot,val,valannot,test,testannot}/*.png."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .prepare import files_in, new_folder, read_pixels, sub_folder, write_jpeg

LAYOUT = 'CamVid/{train,trainannot,val,valannot,test,testannot}/*.png'
SPLITS = ('train', 'val', 'test')
VOID = 11
# Our numbers come from frames that were stored so.
CAMVID_QUALITY = 80


def prepare_camvid(source: Path, root: Path) -> list[str]:
    """Write ``root``/images/{train,val,test}/*.jpg and ``root``/annotations/{train,val,test}/*.png.

    Args:
        source: the folder CamVid of the download.
        root: new folder.

    Returns:
        One sentence per split.

    Raises:
        OSError, ValueError: something is missing, unreadable or not as it should be; then nothing is written.
    """
    pairs = {split: _pairs(source, split) for split in SPLITS}
    with new_folder(root) as partial:
        for split, frames in pairs.items():
            images, labels = partial / 'images' / split, partial / 'annotations' / split
            for folder in (images, labels):
                folder.mkdir(parents=True)
            for frame, label in frames:
                pixels, classes = read_pixels(frame, cv2.IMREAD_COLOR), _read_labels(label)
                if pixels.shape[:2] != classes.shape:
                    raise ValueError(
                        f'{label} has {_size(classes)} pixels and its frame {frame.name} has {_size(pixels)}'
                    )
                write_jpeg(images / f'{frame.stem}.jpg', pixels, CAMVID_QUALITY)
                (labels / f'{frame.stem}.png').write_bytes(cv2.imencode('.png', classes)[1].tobytes())
    return [f'{split}: {len(frames)} frames' for split, frames in pairs.items()]


def _pairs(source: Path, split: str) -> list[tuple[Path, Path]]:
    frames = files_in(sub_folder(source, split, LAYOUT), '.png')
    labels = sub_folder(source, f'{split}annot', LAYOUT)
    pairs = [(frame, labels / frame.name) for frame in frames]
    for frame, label in pairs:
        if not label.is_file():
            raise FileNotFoundError(f'{frame} has no label map {label}')
    return pairs


def _read_labels(path: Path) -> NDArray[np.uint8]:
    """(H, W) classes 0 to 10, and 11 for void; raises ValueError for anything else."""
    classes = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if classes.ndim != 2:
        raise ValueError(f'{path} has {classes.shape[2]} channels; expected is one, with the numbers of classes')
    if classes.max() > VOID:
        raise ValueError(f'{path} has the label {classes.max()}; expected are 0 to {VOID}')
    return classes


def _size(pixels: NDArray) -> str:
    return f'{pixels.shape[1]}x{pixels.shape[0]}'
