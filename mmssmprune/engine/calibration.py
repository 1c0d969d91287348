"""Calibration of a finished checkpoint: what pruned cells' step sizes would have been, for the alignments that ask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mmssmprune.checkpoints.keys import unwrap
from mmssmprune.models.backbones import PrunableBackbone


def backbones_to_calibrate(model: nn.Module) -> list[PrunableBackbone]:
    """The backbones inside ``model`` whose alignment stores a delta.

    Raises:
        ValueError: there is none.
    """
    found = [m for m in model.modules() if isinstance(m, PrunableBackbone) and m.pruner.calibrates]
    if not found:
        raise ValueError("nothing to calibrate: set pruning.alignment to 'calibrated' or 'learned' in the config")
    return found


@torch.no_grad()
def calibrate(model: nn.Module, dataloader: Iterable[Any], num_batches: int) -> int:
    """Run batches through the dense backbone and store the mean delta of the cells that the plan would prune.

    Earlier measurements are forgotten: `calibrated` becomes the mean over these batches, `learned` starts from it.

    Args:
        model: a detector or segmentor with a ``data_preprocessor``, its weights loaded.
        dataloader: yields what the preprocessor takes; a training or test dataloader.
        num_batches: at most so many batches are read.

    Returns:
        The number of images seen.

    Raises:
        ValueError: the model has nothing to calibrate, ``num_batches`` is below 1, or the dataloader is empty.
    """
    if num_batches < 1:
        raise ValueError(f'the number of batches must be at least 1, got {num_batches}')
    model = unwrap(model)
    backbones = backbones_to_calibrate(model)
    for backbone in backbones:
        backbone.pruner.forget_calibration()
    images_seen = 0
    for count, batch in enumerate(dataloader, start=1):
        images = model.data_preprocessor(batch, training=False)['inputs']
        for backbone in backbones:
            backbone.calibrate(images)
        images_seen += len(images)
        if count == num_batches:
            break
    if not images_seen:
        raise ValueError('the dataloader yields no images to calibrate on')
    return images_seen
