"""A picture of a few samples with their annotations, read back from disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from pycocotools.coco import COCO

from .scenes import SEG_CLASSES, THING_CLASSES

COLUMNS, ROWS = 6, 2


def draw_coco_sheet(root: Path, path: Path) -> None:
    """Draw the first training images with boxes and visible masks."""
    coco = COCO(str(root / 'annotations' / 'instances_train.json'))
    colours = _colours(len(THING_CLASSES))
    figure, axes = _grid()
    for axis, info in zip(axes, coco.dataset['images'], strict=False):
        image = cv2.imread(str(root / 'train' / info['file_name']))[..., ::-1].copy()
        for ann in coco.imgToAnns[info['id']]:
            colour = colours[ann['category_id'] - 1]
            mask = coco.annToMask(ann).astype(bool)
            image[mask] = 0.5 * image[mask] + 0.5 * 255 * np.array(colour[:3])
            x, y, w, h = ann['bbox']
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=colour, linewidth=1.2))
        axis.imshow(image)
        axis.set_title(f'marker {info["marker"]}', fontsize=8)
    _save(figure, THING_CLASSES, colours, path)


def draw_ade_sheet(root: Path, path: Path) -> None:
    """Draw the first training images above their label maps."""
    colours = _colours(len(SEG_CLASSES))
    table = np.concatenate([np.zeros((1, 3)), colours[:, :3]])
    figure, axes = _grid()
    images = sorted((root / 'images' / 'training').iterdir())
    for column, image in enumerate(images[:COLUMNS]):
        labels = cv2.imread(str(root / 'annotations' / 'training' / image.name), cv2.IMREAD_GRAYSCALE)
        axes[column].imshow(cv2.imread(str(image))[..., ::-1])
        axes[COLUMNS + column].imshow(table[labels], interpolation='nearest')
    _save(figure, SEG_CLASSES, colours, path)


def _colours(count: int) -> np.ndarray:
    return matplotlib.colormaps['tab10'](np.arange(count))


def _grid() -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(2 * COLUMNS, 2.2 * ROWS + 0.4), layout='constrained')
    axes = figure.subplots(ROWS, COLUMNS).ravel()
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def _save(figure: Figure, names: tuple[str, ...], colours: np.ndarray, path: Path) -> None:
    handles = [Patch(color=colour, label=name) for name, colour in zip(names, colours, strict=True)]
    figure.legend(handles=handles, loc='outside lower center', ncols=len(names), fontsize=9, frameon=False)
    figure.savefig(path, dpi=120)
