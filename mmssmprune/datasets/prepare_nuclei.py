"""Nuclei of the Data Science Bowl 2018: stage1_train/<id>/{images,masks}/*.png, a mask for each nucleus, as COCO."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .coco_format import mask_fields
from .prepare import files_in, new_folder, read_pixels, sub_folder, write_annotations, write_jpeg

LAYOUT = 'stage1_train/<id>/images/<id>.png and stage1_train/<id>/masks/*.png'
# A few images are much larger than the others.
LARGEST_SIDE = 360
VAL_SHARE = 4


def prepare_nuclei(source: Path, root: Path) -> list[str]:
    """Write ``root``/{train,val}/*.jpg and ``root``/annotations/instances_{train,val}.json.

    Of all folders a quarter, drawn with seed 0, is for validation; images with a side above `LARGEST_SIDE` pixels are
    left out. Masks without a pixel are skipped.

    Args:
        source: the folder stage1_train of the download.
        root: new folder.

    Returns:
        One sentence per split.

    Raises:
        OSError, ValueError: something is missing, unreadable or not as it should be; then nothing is written.
    """
    if not source.is_dir():
        raise FileNotFoundError(f'{source} is no folder; expected is {LAYOUT}')
    folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith('.'))
    if len(folders) < VAL_SHARE:
        raise FileNotFoundError(f'{source} has {len(folders)} folders of images; expected is {LAYOUT}')
    order = np.random.RandomState(0).permutation(len(folders))
    is_val = set(order[: len(folders) // VAL_SHARE].tolist())
    told = []
    with new_folder(root) as partial:
        for split in ('train', 'val'):
            numbered = [(i, f) for i, f in enumerate(folders) if (i in is_val) == (split == 'val')]
            told.append(f'{split}: {_write_split(partial, split, numbered)}')
    return told


def _write_split(root: Path, split: str, folders: list[tuple[int, Path]]) -> str:
    (root / split).mkdir()
    images, annotations, left_out = [], [], 0
    for number, folder in folders:
        image = read_pixels(_image_of(folder), cv2.IMREAD_COLOR)
        height, width = image.shape[:2]
        if max(height, width) > LARGEST_SIDE:
            left_out += 1
            continue
        write_jpeg(root / split / f'{folder.name}.jpg', image)
        images.append(dict(id=number + 1, file_name=f'{folder.name}.jpg', width=width, height=height))
        for path in files_in(sub_folder(folder, 'masks', LAYOUT), '.png'):
            mask = _read_mask(path, (height, width))
            if mask.any():
                fields = dict(id=len(annotations) + 1, image_id=number + 1, category_id=1, iscrowd=0)
                annotations.append({**fields, **mask_fields(mask)})
    if not images:
        raise ValueError(f'no image for {split} is left; all have a side above {LARGEST_SIDE} pixels')
    write_annotations(root / 'annotations' / f'instances_{split}.json', images, annotations, ['nucleus'])
    return f'{len(images)} images with {len(annotations)} nuclei, {left_out} larger images left out'


def _image_of(folder: Path) -> Path:
    found = files_in(sub_folder(folder, 'images', LAYOUT), '.png')
    if len(found) > 1:
        raise ValueError(f'{folder / "images"} has {len(found)} images; expected is one')
    return found[0]


def _read_mask(path: Path, hw: tuple[int, int]) -> NDArray[np.bool_]:
    mask = read_pixels(path, cv2.IMREAD_GRAYSCALE)
    if mask.shape != hw:
        raise ValueError(f'{path} has {mask.shape[1]}x{mask.shape[0]} pixels and its image has {hw[1]}x{hw[0]}')
    return mask > 127
