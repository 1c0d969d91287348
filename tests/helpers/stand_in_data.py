"""Noise pictures in the folders, formats and sizes of COCO 2017 and ADE20K."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def noise_image(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.BICUBIC)


def make_coco(root: Path, train: int = 2, val: int = 1) -> Path:
    """``root``/coco with images of 640x480 and ten polygons each."""
    from mmdet.datasets import CocoDataset

    rng = np.random.default_rng(0)
    coco = root / 'coco'
    (coco / 'annotations').mkdir(parents=True)
    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
    for split, count in (('train2017', train), ('val2017', val)):
        (coco / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            noise_image(rng, 480, 640).save(coco / split / f'{i:012d}.jpg')
            images.append(dict(id=i, file_name=f'{i:012d}.jpg', height=480, width=640))
            for _ in range(10):
                w, h = rng.integers(30, 200, 2).tolist()
                x, y = int(rng.integers(0, 640 - w)), int(rng.integers(0, 480 - h))
                polygon = [x, y + h / 2, x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h]
                annotations.append(
                    dict(
                        id=len(annotations),
                        image_id=i,
                        category_id=int(rng.integers(1, len(names) + 1)),
                        bbox=[x, y, w, h],
                        area=w * h / 2,
                        iscrowd=0,
                        segmentation=[polygon],
                    )
                )
        content = dict(images=images, annotations=annotations, categories=categories)
        (coco / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    return root


def make_ade20k(root: Path, train: int = 2, val: int = 1) -> Path:
    """``root``/ade/ADEChallengeData2016 with images of 683x512 and labels 0 (other) to 150."""
    rng = np.random.default_rng(0)
    ade = root / 'ade' / 'ADEChallengeData2016'
    for split, count in (('training', train), ('validation', val)):
        for folder in ('images', 'annotations'):
            (ade / folder / split).mkdir(parents=True)
        for i in range(count):
            noise_image(rng, 512, 683).save(ade / 'images' / split / f'ADE_{i:08d}.jpg')
            labels = Image.fromarray(rng.integers(0, 151, (16, 21), dtype=np.uint8))
            labels.resize((683, 512), Image.NEAREST).save(ade / 'annotations' / split / f'ADE_{i:08d}.png')
    return root
