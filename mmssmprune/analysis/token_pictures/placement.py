"""Where the cells of a token grid lie on the image that a user knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Placement:
    """Cells over an image, along rows and columns alike.

    A pipeline resizes the image and pads it at the bottom and right, so cells may reach beyond it, or lie outside.

    Attributes:
        image_hw: the image (H, W) in its own pixels.
        scale: pixels of the network's input per pixel of the image, (vertical, horizontal).
        stride: pixels of the input from cell to cell.
        margin: pixels of the input before the first cell; where patches overlap, a cell is the middle of its patch, and
            where they reach beyond the input, its first cell may too: the margin is negative then.
        windows: the top left corners (y, x) in the input of the parts that the backbone sees one after the other;
            ((0, 0),) where it sees everything at once.
    """

    image_hw: tuple[int, int]
    scale: tuple[float, float]
    stride: int
    margin: float = 0.0
    windows: tuple[tuple[int, int], ...] = ((0, 0),)

    def paint(self, maps: Sequence[np.ndarray], canvas_hw: tuple[int, int]) -> np.ndarray:
        """One map (h, w) per window -> float64 (H', W') over the image: each pixel shows the cell over its middle.

        Where windows overlap it is the mean of what they know; NaN is what they do not.
        """
        total, count = np.zeros(canvas_hw), np.zeros(canvas_hw)
        for cells, window in zip(maps, self.windows, strict=True):
            rows, columns = (self._cells_under(i, canvas_hw[i], window[i], cells.shape[i]) for i in (0, 1))
            values = cells[np.ix_(rows, columns)].astype(float)
            known = np.outer(rows >= 0, columns >= 0) & ~np.isnan(values)
            total[known] += values[known]
            count += known
        return np.divide(total, count, out=np.full(canvas_hw, np.nan), where=count > 0)

    def borders(self, axis: int, cells: int, window: int = 0) -> np.ndarray:
        """Borders (cells + 1,) of a window's cells along an axis (0: y, 1: x), in pixels of the image."""
        begin = self.windows[window][axis] + self.margin
        return (begin + self.stride * np.arange(cells + 1)) / self.scale[axis]

    def on_image(self, hw_shape: tuple[int, int], window: int = 0) -> np.ndarray:
        """Bool (h, w): cells that show at least a part of the image and not only padding."""
        begins = (self.borders(axis, hw_shape[axis], window)[:-1] < self.image_hw[axis] for axis in (0, 1))
        return np.outer(*begins)

    def _cells_under(self, axis: int, pixels: int, begin: int, cells: int) -> np.ndarray:
        """Number of the cell over the middle of each of ``pixels`` equal parts of the image; -1 where there is none."""
        middle = (np.arange(pixels) + 0.5) * (self.image_hw[axis] / pixels) * self.scale[axis] - begin
        index = np.floor((middle - self.margin) / self.stride).astype(int).clip(0, cells - 1)
        seen = cells * self.stride + max(2 * self.margin, 0)
        return np.where((middle >= 0) & (middle < seen), index, -1)


def place(
    model: nn.Module, backbone: nn.Module, sample: Any, input_hw: tuple[int, int], padded: bool
) -> tuple[Placement, ...]:
    """The placement for one image of the cells of each stage.

    Args:
        model: mmdet detector or mmseg segmentor.
        backbone: the one inside it whose tokens are shown.
        sample: the image's data sample with ``ori_shape``, ``img_shape`` and, if ``padded``, ``scale_factor``.
        input_hw: size (H, W) of the input after the preprocessor.
        padded: whether the pipeline itself pads; ``img_shape`` then counts the padding, and only ``scale_factor`` tells
            how large the image became. Elsewhere ``img_shape`` is right, and ``scale_factor`` may miss a second resize.
    """
    image_hw = tuple(sample.ori_shape[:2])
    if padded and 'scale_factor' in sample:
        width_scale, height_scale = sample.scale_factor[:2]
        resized = tuple(round(n * s) for n, s in zip(image_hw, (height_scale, width_scale), strict=True))
    else:
        resized = tuple(sample.img_shape[:2])
    scale = tuple(new / old for new, old in zip(resized, image_hw, strict=True))
    windows = _windows(model, input_hw)
    return tuple(
        Placement(image_hw, scale, stride, middle - stride / 2, windows) for stride, middle in backbone.cell_places
    )


def _windows(model: nn.Module, input_hw: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """As mmseg's `EncoderDecoder.slide_inference` cuts them: by rows, the last ones moved back inside the image."""
    test_cfg = getattr(model, 'test_cfg', None) or {}
    if test_cfg.get('mode') != 'slide':
        return ((0, 0),)
    crops, strides = test_cfg['crop_size'], test_cfg['stride']
    tops, lefts = (_begins(*sizes) for sizes in zip(input_hw, crops, strides, strict=True))
    return tuple((top, left) for top in tops for left in lefts)


def _begins(size: int, crop: int, stride: int) -> list[int]:
    count = -(-max(size - crop, 0) // stride) + 1
    return [max(min(i * stride + crop, size) - crop, 0) for i in range(count)]
