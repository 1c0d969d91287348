"""Run one image through a pruned model, densely and pruned, and keep what pictures need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from torch import Tensor, nn

from mmssmprune.models.backbones.base import pruned_backbones
from mmssmprune.models.keep_ratio import keep_ratio_set_to
from mmssmprune.pruning.token_record import Pruning, Tap, TokenRecord, recorded

from .placement import Placement, place


@dataclass(frozen=True)
class Observation:
    """One image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        dense, pruned: data samples with the predictions at keep ratio 1 and at the model's own, on the CPU.
        records: one `TokenRecord` per window (`Placement.windows`) of the pruned model.
        placements: where its cells lie, per stage.
        keep_ratios: the model's own, one per pruning layer.
        dense_tokens: how many each layer would process if none were pruned, over all windows.
    """

    image: np.ndarray
    dense: Any
    pruned: Any
    records: list[TokenRecord]
    placements: tuple[Placement, ...]
    keep_ratios: tuple[float, ...]
    dense_tokens: list[int]

    @property
    def placement(self) -> Placement:
        """Of the first stage."""
        return self.placements[0]

    def placement_of(self, parts: Sequence[Pruning | Tap]) -> Placement:
        """Of the stage in which something was recorded."""
        return self.placements[parts[0].stage]

    def where(self, parts: Sequence[Pruning | Tap]) -> str:
        """When something was recorded, in words; a stage is told where there are several."""
        first = parts[0]
        of = f', stage {first.stage + 1} ({"x".join(map(str, first.kept.shape[1:]))})'
        return f'after layer {first.layer}{of if len(self.placements) > 1 else ""}'

    @property
    def prunings(self) -> list[tuple[Pruning, ...]]:
        """Per pruning layer, one per window."""
        return list(zip(*(record.prunings for record in self.records), strict=True))

    @property
    def taps(self) -> list[tuple[Tap, ...]]:
        """Per tapped layer, one tap per window."""
        return list(zip(*(record.taps for record in self.records), strict=True))


def read_image(path: str) -> np.ndarray:
    """An image file as (H, W, 3) uint8, RGB.

    Raises:
        ValueError: the file is no image that OpenCV can read.
    """
    try:
        image = mmcv.imread(path)
    except cv2.error:  # an empty file
        image = None
    if image is None:
        raise ValueError(f'{path} is no image that can be read')
    return np.ascontiguousarray(image[..., ::-1])


@torch.no_grad()
def observe(model: nn.Module, inputs: Tensor, sample: Any, padded: bool = False) -> Observation:
    """Run one image twice, at keep ratio 1 and as the model prunes; neither the model nor random numbers change.

    Args:
        model: mmdet detector or mmseg segmentor in eval mode, not wrapped (DDP), with a pruned backbone.
        inputs: (3, h, w) as the test pipeline packs it.
        sample: its data sample.
        padded: whether the pipeline pads, see `place`.

    Raises:
        ValueError: nothing in the model is pruned, or its backbone runs several times per image otherwise than in
            mmseg's sliding windows.
    """
    backbone = pruned_backbones(model)[0]
    with _random_state_kept():
        with recorded(backbone.pruner) as records:
            pruned, input_hw = _predict(model, inputs, sample)
        with keep_ratio_set_to(model, 1.0):
            dense, _ = _predict(model, inputs, sample)
    placements = place(model, backbone, sample, input_hw, padded)
    if len(records) != len(placements[0].windows):
        raise ValueError(
            f'the backbone ran {len(records)} times for one image in {len(placements[0].windows)} windows, so the maps '
            'cannot be placed over it; only whole images and the sliding windows of mmseg are supported'
        )
    image = _image_of(inputs, sample, placements[0])
    whole = [sum(n) for n in zip(*(backbone.dense_tokens_per_layer(r.hw_shapes) for r in records), strict=True)]
    return Observation(image, dense, pruned, records, placements, backbone.pruner.plan.keep_ratios, whole)


def _predict(model: nn.Module, inputs: Tensor, sample: Any) -> tuple[Any, tuple[int, int]]:
    """The sample with its prediction, on the CPU, and the size of the input after the preprocessor."""
    data = model.data_preprocessor({'inputs': [inputs], 'data_samples': [deepcopy(sample)]}, False)
    input_hw = tuple(data['inputs'].shape[-2:])
    return model(**data, mode='predict')[0].cpu(), input_hw


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """An importance may draw random numbers; a validation is to go on as without the picture."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield


def _image_of(inputs: Tensor, sample: Any, placement: Placement) -> np.ndarray:
    """The image file; where there is none, the input without its padding at the image's size, taken for BGR."""
    height, width = placement.image_hw
    if 'img_path' in sample:
        image = read_image(sample.img_path)
        if image.shape[:2] == (height, width):
            return image
    resized = [round(n * s) for n, s in zip(placement.image_hw, placement.scale, strict=True)]
    # Of images with other than three channels the first, in grey.
    channels = [2, 1, 0] if len(inputs) == 3 else [0, 0, 0]
    shown = inputs[channels, : resized[0], : resized[1]].permute(1, 2, 0).cpu().numpy()
    return mmcv.imresize(np.ascontiguousarray(shown.clip(0, 255).astype(np.uint8)), (width, height))
