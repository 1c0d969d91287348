"""Scenes as a COCO data set: PNG images and instances_{split}.json with exact masks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_api

from .scenes import THING_CLASSES, Scene


def write_coco_split(root: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write ``root/{split}/*.png`` and ``root/annotations/instances_{split}.json``."""
    (root / split).mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    images, annotations = [], []
    for image_id, scene in enumerate(scenes, start=1):
        name = f'{image_id:06d}.png'
        cv2.imwrite(str(root / split / name), scene.image[..., ::-1])
        height, width = scene.labels.shape
        images.append(dict(id=image_id, file_name=name, height=height, width=width, marker=scene.marker))
        for thing in scene.things:
            fields = dict(id=len(annotations) + 1, image_id=image_id, iscrowd=0)
            fields['category_id'] = 1 + THING_CLASSES.index(thing.category)
            annotations.append({**fields, **mask_fields(thing.mask)})
    categories = [dict(id=i, name=name) for i, name in enumerate(THING_CLASSES, start=1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def mask_fields(mask: NDArray[np.bool_]) -> dict:
    """Box, area and run-length code of a mask (H, W) that has pixels."""
    rle = rle_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return dict(
        bbox=[left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        area=int(mask.sum()),
        segmentation=dict(size=list(rle['size']), counts=rle['counts'].decode()),
    )
