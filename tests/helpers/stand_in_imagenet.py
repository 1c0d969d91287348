"""Noise pictures in the folders and formats of ImageNet-1k, its labels in meta/*.txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image


def make_imagenet(root: Path, train: int = 4, val: int = 3) -> Path:
    """``root``/imagenet with images of 96x80 of classes all over the 1000."""
    rng = np.random.default_rng(0)
    imagenet = root / 'imagenet'
    (imagenet / 'meta').mkdir(parents=True)
    for split, count in (('train', train), ('val', val)):
        (imagenet / split).mkdir()
        lines = []
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            coarse.resize((96, 80), Image.BICUBIC).save(imagenet / split / f'{split}_{i:08d}.JPEG')
            lines.append(f'{split}_{i:08d}.JPEG {rng.integers(1000)}\n')
        (imagenet / 'meta' / f'{split}.txt').write_text(''.join(lines))
    return root


def shrink(cfg: Config, side: int = 64, batch_size: int = 2) -> Config:
    """Make a classification config load crops of ``side`` pixels in small batches without worker processes."""
    sizes = dict(RandomResizedCrop=('scale', side), ResizeEdge=('scale', side + 8), CenterCrop=('crop_size', side))
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name].update(batch_size=batch_size, num_workers=0, persistent_workers=False, pin_memory=False)
        for transform in cfg[name].dataset.pipeline:
            if transform.type in sizes:
                key, value = sizes[transform.type]
                transform[key] = value
    return cfg
