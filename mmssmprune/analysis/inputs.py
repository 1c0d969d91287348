"""One image as input of a whole mmdet, mmseg or mmpretrain model, at a stated size."""

from __future__ import annotations

import sys
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from .quiet import quiet

_PREPROCESSOR = (
    'model.data_preprocessor does not suit images of {0} channels, which the backbone takes: mean and std need one '
    'number or {0}, and only three channels can go from BGR to RGB'
)


def first_test_image(cfg: Config) -> Tensor:
    """The first test image as the config's test pipeline leaves it: (3, H, W), uint8 or float, not normalised."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with quiet():
        return DATASETS.build(cfg.test_dataloader.dataset)[0]['inputs']


def first_test_shape(model: nn.Module, cfg: Config) -> tuple[int, int]:
    """(H, W) of the first test image after test pipeline and padding."""
    return tuple(prepare_inputs(model, first_test_image(cfg))['inputs'].shape[-2:])


def noise_image(shape: tuple[int, int], seed: int = 0, channels: int = 3) -> Tensor:
    """A (channels, H, W) uint8 image of seeded noise, for counts that do not depend on what the image shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, *shape), dtype=torch.uint8, generator=generator)


def prepare_inputs(model: nn.Module, image: Tensor, shape: tuple[int, int] | None = None) -> dict[str, Any]:
    """Batch of one image, normalised and padded by the model's own preprocessor.

    Args:
        model: an mmdet detector, mmseg segmentor or mmpretrain classifier.
        image: (C, h, w) as a test pipeline gives it.
        shape: (H, W) in pixels to which the image is resized first; None keeps its size.

    Returns:
        The arguments ``inputs`` (1, C, H', W') and ``data_samples`` of ``model.forward``, on the model's device. H' and
        W' exceed H and W where the preprocessor pads to a multiple.

    Raises:
        ValueError: the preprocessor does not take images of so many channels.
    """
    if shape is not None and tuple(image.shape[1:]) != tuple(shape):
        resized = F.interpolate(image[None].float(), tuple(shape), mode='bilinear', align_corners=False)[0]
        image = resized.round().to(image.dtype) if not image.is_floating_point() else resized
    size = tuple(image.shape[1:])
    sample = _sample_class(model)(metainfo={'img_shape': size, 'ori_shape': size, 'scale_factor': (1.0, 1.0)})
    try:
        data = model.data_preprocessor({'inputs': [image], 'data_samples': [sample]}, False)
    except (AssertionError, IndexError, RuntimeError) as error:
        raise ValueError(f'{_PREPROCESSOR.format(len(image))} ({" ".join(str(error).split())})') from error
    if data['inputs'].shape[1] != len(image):
        raise ValueError(f'{_PREPROCESSOR.format(len(image))} (it makes {data["inputs"].shape[1]} of them)')
    return data


def _sample_class(model: nn.Module) -> type:
    from mmdet.models import BaseDetector

    if isinstance(model, BaseDetector):
        from mmdet.structures import DetDataSample

        return DetDataSample
    from mmseg.models import BaseSegmentor
    from mmseg.structures import SegDataSample

    if isinstance(model, BaseSegmentor):
        return SegDataSample
    if 'mmpretrain' in sys.modules:  # which is optional, but a classifier of its own has imported it
        from mmpretrain.models import BaseClassifier
        from mmpretrain.structures import DataSample

        if isinstance(model, BaseClassifier):
            return DataSample
    raise TypeError(
        f'{type(model).__name__} is neither an mmdet detector, nor an mmseg segmentor, nor an mmpretrain classifier'
    )


def count_proposals(model: nn.Module) -> int | None:
    """Region proposals per image at the most, or None for a model without RoI heads."""
    rpn = (model.test_cfg.get('rpn') or {}) if hasattr(model, 'rpn_head') else {}
    # Without a number (Sparse R-CNN) the model itself fixes it.
    return int(rpn['max_per_img']) if rpn.get('max_per_img') else None
