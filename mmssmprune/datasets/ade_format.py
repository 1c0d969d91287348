"""Scenes as an ADE20K-like data set: PNG images and PNG label maps, 0 unlabelled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2

from .scenes import Scene

FOLDERS = {'train': 'training', 'val': 'validation'}


def write_ade_split(root: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write ``root/images/{training,validation}/*.png`` and the label maps beside them under ``root/annotations``."""
    folders = [root / kind / FOLDERS[split] for kind in ('images', 'annotations')]
    for folder in folders:
        folder.mkdir(parents=True)
    for number, scene in enumerate(scenes, start=1):
        name = f'MINI_{split}_{number:06d}.png'
        cv2.imwrite(str(folders[0] / name), scene.image[..., ::-1])
        cv2.imwrite(str(folders[1] / name), scene.labels)
