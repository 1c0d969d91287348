"""The real pixels that the small data sets are made of, all shipped inside scikit-learn and scikit-image.

Train and val never share a pixel: photographs are cut into a left part for train and a right part for val, and digits
and coins are dealt out instance by instance.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SPLITS = ('train', 'val')
BACKGROUNDS = ('chelsea', 'coffee', 'astronaut', 'rocket')
TEXTURES = ('grass', 'brick', 'gravel')
DIGITS = (0, 1, 4)
TRAIN_SHARE = 0.7


@dataclass(frozen=True)
class Region:
    """A rectangle of a photograph: its name, its columns in the original, and its pixels (H, W, 3), uint8, RGB."""

    photo: str
    columns: tuple[int, int]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Sources:
    """Everything that scenes of one split may draw from.

    Attributes:
        backgrounds, textures: regions of photographs; ``textures`` in the order of `TEXTURES`.
        coins: square grey crops of single coins, uint8.
        digits: per digit of `DIGITS` the 8x8 intensities (n, 8, 8) in [0, 1].
        digit_index: per digit the rows of scikit-learn's data set that they are.
    """

    backgrounds: tuple[Region, ...]
    textures: tuple[Region, ...]
    coins: tuple[Region, ...]
    digits: dict[int, NDArray[np.float64]]
    digit_index: dict[int, NDArray[np.int64]]


def load_sources(split: str) -> Sources:
    """Load the pixels of ``split`` ('train' or 'val')."""
    if split not in SPLITS:
        raise ValueError(f'split is {split!r}; the names are {", ".join(SPLITS)}')
    digits, rows = _digits(split)
    return Sources(
        tuple(_part(name, split) for name in BACKGROUNDS),
        tuple(_part(name, split) for name in TEXTURES),
        tuple(_coins(split)),
        digits,
        rows,
    )


def _photo(name: str) -> NDArray[np.uint8]:
    from skimage import data

    pixels = getattr(data, name)()
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def _part(name: str, split: str) -> Region:
    pixels = _photo(name)
    cut = int(pixels.shape[1] * TRAIN_SHARE)
    first, last = (0, cut) if split == 'train' else (cut, pixels.shape[1])
    return Region(name, (first, last), pixels[:, first:last])


def _coins(split: str) -> list[Region]:
    """Cut single coins out of the photograph, left ones for train, right ones for val."""
    photo = _photo('coins')
    bright = cv2.morphologyEx((photo[..., 0] > 110).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(bright)
    cut = int(photo.shape[1] * TRAIN_SHARE)
    coins = []
    for x, y, width, height, area in stats[1:]:
        whole = min(width, height) >= 30 and max(width, height) <= 70 and area > 0.6 * width * height
        ours = x + width <= cut if split == 'train' else x >= cut
        if whole and ours:
            coins.append(Region('coins', (int(x), int(x + width)), photo[y : y + height, x : x + width]))
    return coins


def _digits(split: str) -> tuple[dict[int, NDArray[np.float64]], dict[int, NDArray[np.int64]]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digits, index = {}, {}
    for digit in DIGITS:
        rows = np.flatnonzero(bunch.target == digit)
        cut = int(len(rows) * TRAIN_SHARE)
        index[digit] = rows[:cut] if split == 'train' else rows[cut:]
        digits[digit] = bunch.images[index[digit]] / 16.0
    return digits, index
