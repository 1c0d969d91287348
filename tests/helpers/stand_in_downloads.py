"""Downloads of photographs as their publishers lay them out, tiny and made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

VOC_OBJECT = (
    '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
)


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_camvid_download(root: Path, hw: tuple[int, int] = (360, 480), frames: int = 2) -> Path:
    """Stripes of all labels, void included, under noise."""
    rng = np.random.default_rng(0)
    labels = np.broadcast_to(np.arange(hw[1]) * 12 // hw[1], hw)
    for split, count in (('train', frames), ('val', frames), ('test', 1)):
        for i in range(count):
            save(rng.integers(0, 256, (*hw, 3)), root / 'CamVid' / split / f'Seq_{split}_{i}.png')
            save(labels, root / 'CamVid' / f'{split}annot' / f'Seq_{split}_{i}.png')
    return root / 'CamVid'


def make_nuclei_download(root: Path, images: int = 8, hw: tuple[int, int] = (256, 320)) -> Path:
    """Images of four square nuclei; the last one is too large, and one mask is empty."""
    rng = np.random.default_rng(0)
    for i in range(images):
        size = (400, 500) if i == images - 1 else hw
        folder = root / 'stage1_train' / f'{i:04x}'
        save(rng.integers(0, 256, (*size, 4)), folder / 'images' / f'{folder.name}.png')
        for j in range(4):
            mask = np.zeros(size)
            mask[20 + 30 * j : 40 + 30 * j, 50 : 70 + j] = 255
            save(mask, folder / 'masks' / f'mask{j}.png')
        save(np.zeros(size), folder / 'masks' / 'empty.png')
    return root / 'stage1_train'


def make_bccd_download(root: Path, images: int = 2, hw: tuple[int, int] = (480, 640)) -> Path:
    """Each image has one cell of every class, one box that leaves the image, and an empty one."""
    rng = np.random.default_rng(0)
    bccd = root / 'BCCD'
    boxes = [('WBC', 69, 316, 286, 480), ('RBC', 1, 1, 100, 120), ('Platelets', 200, 200, 240, 240)]
    boxes += [('RBC', 0, 470, 700, 500), ('RBC', 641, 10, 660, 50)]
    number = 0
    for split in ('train', 'val', 'test'):
        names = [f'BloodImage_{number + i:05d}' for i in range(images)]
        number += images
        for name in names:
            save(rng.integers(0, 256, (*hw, 3)), bccd / 'JPEGImages' / f'{name}.jpg')
            (bccd / 'Annotations').mkdir(exist_ok=True)
            objects = ''.join(VOC_OBJECT.format(*box) for box in boxes)
            (bccd / 'Annotations' / f'{name}.xml').write_text(f'<annotation>{objects}</annotation>')
        listed = bccd / 'ImageSets' / 'Main' / f'{split}.txt'
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text('\n'.join(names) + '\n')
    return bccd
