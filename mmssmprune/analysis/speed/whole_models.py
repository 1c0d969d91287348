"""Whole detectors and segmentors from configs, with random weights, on images of noise with fitting labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmssmprune.analysis.full_proposals import full_proposals
from mmssmprune.analysis.inputs import noise_image
from mmssmprune.analysis.quiet import quiet
from mmssmprune.engine.loading import build_model
from mmssmprune.engine.runner_setup import load_config

from .command_line import DTYPES

BOXES = 8


def make_model(config: str, device: torch.device) -> nn.Module:
    """Build a config's model and initialise it, without downloading pretrained weights.

    Raises:
        ValueError: it is a config of another suite; and whatever a wrong config raises.
    """
    cfg = load_config(config)
    if cfg.default_scope not in ('mmdet', 'mmseg'):
        raise ValueError(f'{config} is a config of {cfg.default_scope}; give one of a detector or a segmentor')
    cfg.model.backbone.pop('init_cfg', None)
    with quiet():
        model = build_model(cfg, device=str(device))
        model.init_weights()
    return model


def make_batch(model: nn.Module, shape: tuple[int, int], batch: int, training: bool) -> dict[str, Any]:
    """What the model's own preprocessor makes of images (H, W) of noise: the arguments of ``model.forward``."""
    from mmdet.models import BaseDetector

    labelled = _boxed_image if isinstance(model, BaseDetector) else _segmented_image
    samples = [labelled(shape) for _ in range(batch)]
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'size', None) is not None:
        preprocessor.size = shape  # mmseg pads training crops to the config's size
    return preprocessor({'inputs': [noise_image(shape, i) for i in range(batch)], 'data_samples': samples}, training)


def _boxed_image(shape: tuple[int, int]) -> Any:
    """Objects side by side, each a rectangle with its mask."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = shape
    lefts = [i * width // BOXES for i in range(BOXES)]
    boxes = [[left, height // 4, left + width // BOXES - 1, 3 * height // 4] for left in lefts]
    masks = np.zeros((BOXES, height, width), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(metainfo=_about(shape))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.zeros(BOXES, dtype=torch.int64),
        masks=BitmapMasks(masks, height, width),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return sample


def _segmented_image(shape: tuple[int, int]) -> Any:
    """The two halves of the image belong to two classes."""
    from mmseg.structures import SegDataSample

    labels = torch.zeros(1, *shape, dtype=torch.int64)
    labels[..., shape[1] // 2 :] = 1
    return SegDataSample(metainfo=_about(shape), gt_sem_seg=PixelData(data=labels))


def _about(shape: tuple[int, int]) -> dict[str, Any]:
    return {'img_shape': shape, 'ori_shape': shape, 'scale_factor': (1.0, 1.0)}


def inference_of(model: nn.Module, batch: dict[str, Any], dtype: torch.dtype) -> Callable[[], None]:
    """Predictions of a batch, post-processing included, with as many proposals as the config allows."""
    device = batch['inputs'].device

    def run() -> None:
        model.eval()
        with torch.no_grad(), full_proposals(model), torch.autocast(device.type, dtype, dtype != torch.float32):
            model(**batch, mode='predict')

    return run


def training_of(model: nn.Module, batch: dict[str, Any], dtype: torch.dtype) -> Callable[[], None]:
    """A training step: losses, gradients, a step of AdamW so small that the weights stay what they are."""
    device = batch['inputs'].device
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-12, weight_decay=0)

    def run() -> None:
        model.train()
        with torch.enable_grad():
            with torch.autocast(device.type, dtype, dtype != torch.float32):
                loss, _ = model.parse_losses(model(**batch, mode='loss'))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def make_call(model: nn.Module, mode: str, shape: tuple[int, int], batch: int, dtype: str) -> Callable[[], None]:
    """A step of ``mode`` 'inference' or 'training' on a batch of noise."""
    data = make_batch(model, shape, batch, mode == 'training')
    return (training_of if mode == 'training' else inference_of)(model, data, DTYPES[dtype])


def calls_to_weigh(
    config: str, mode: str, shape: tuple[int, int], batch: int, dtype: str
) -> Iterator[Callable[[], None]]:
    """A model's step on a CPU, of a small batch and of the wanted one."""
    model = make_model(config, torch.device('cpu'))
    for size, number in (((64, 64), 2), (shape, batch)):
        yield make_call(model, mode, size, number, dtype)
