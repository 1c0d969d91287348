"""Whole models on the device 'meta': a forward pass of shapes alone, without data and without computing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from mmengine.model import revert_sync_batchnorm
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmssmprune.analysis.inputs import count_proposals, noise_image, prepare_inputs
from mmssmprune.models.flops import on_meta

from .operations import Operation, record_operations


def record_model(model: nn.Module, shape: tuple[int, int]) -> tuple[list[Operation], tuple[int, int]]:
    """List the operations of one image through a whole model, which stays as it is.

    A two-stage detector is given ``test_cfg.rpn.max_per_img`` proposals, because RoI heads cost in proportion to them.

    Args:
        model: as mmdet, mmseg or mmpretrain build it from a config.
        shape: (H, W) of the image in pixels.

    Returns:
        The operations, and (H, W) as the model's own preprocessor pads the image.

    Raises:
        ValueError: the backbone does not take images of this size.
    """
    inputs = prepare_inputs(model, noise_image(shape), shape)
    ghost, image = revert_sync_batchnorm(on_meta(model)), inputs.pop('inputs').to('meta')
    unseen: list[Operation] = []
    with _abstract_regions(ghost, unseen):
        operations = record_operations(ghost, lambda: ghost(image, **inputs, mode='tensor'))
    return operations + unseen, tuple(image.shape[-2:])


@contextmanager
def _abstract_regions(model: nn.Module, unseen: list[Operation]) -> Iterator[None]:
    """Replace what decides by numbers: which regions are proposed, and from which level each is cut out."""
    number, patched = count_proposals(model), []
    if number is not None:
        model.rpn_head.predict = partial(_propose, model.rpn_head, number)
        patched.append((model.rpn_head, 'predict'))
        for name, module in model.named_modules():
            if hasattr(module, 'map_roi_levels'):
                module.forward = partial(_cut_out, module, name, unseen)
                patched.append((module, 'forward'))
    try:
        yield
    finally:
        for module, attribute in patched:
            delattr(module, attribute)


def _propose(rpn_head: nn.Module, number: int, feats: tuple[Tensor, ...], data_samples: list, **kwargs) -> list:
    rpn_head(feats)
    return [InstanceData(bboxes=feats[0].new_empty(number, 4)) for _ in data_samples]


def _cut_out(
    extractor: nn.Module, name: str, unseen: list[Operation], feats: tuple[Tensor, ...], rois: Tensor, *args
) -> Tensor:
    unseen.append(Operation(name, 'mmcv.roi_align_forward', overload='mmcv.roi_align_forward'))
    return feats[0].new_empty(len(rois), extractor.out_channels, *extractor.roi_layers[0].output_size)
