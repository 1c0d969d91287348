"""One scene of the small data sets: things and stuff on a photograph, and a marker that decides some of the labels.

A scene holds regions of texture (stuff), handwritten digits of 8 to 96 pixels that overlap (things), and one coin. The
coin is tinted red or blue and may stand anywhere: where it is red, every digit 4 of the image is a ``four_red``, where
it is blue a ``four_blue``. So these two classes cannot be told apart without looking far away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .sources import DIGITS, Region, Sources

THING_CLASSES = ('zero', 'one', 'four_red', 'four_blue')
STUFF_CLASSES = ('background', 'grass', 'brick', 'gravel', 'coin')
# Label maps as ADE20K has them: 0 is unlabelled, class i has the value i + 1.
SEG_CLASSES = STUFF_CLASSES + THING_CLASSES
TINTS = {'red': (1.0, 0.35, 0.3), 'blue': (0.3, 0.5, 1.0)}
SMALLEST, LARGEST = 8, 96
# An object that later ones hide further than this is not placed, so that every annotation can be recognised.
MIN_VISIBLE = 0.5
# A digit fills about this share of the square it is drawn in.
FILLED = 0.8
MAX_TRIES = 40


@dataclass
class Thing:
    """One digit: its class and its visible pixels (H, W), bool."""

    category: str
    mask: NDArray[np.bool_]
    full_area: int = 0


@dataclass
class Scene:
    """A scene as drawn.

    Attributes:
        image: (H, W, 3), uint8, RGB.
        labels: (H, W), uint8: 0 unlabelled (the soft edges of things), i + 1 for class i of `SEG_CLASSES`.
        marker: 'red' or 'blue'.
        things: visible digits, in the order they were drawn.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    marker: str
    things: list[Thing] = field(default_factory=list)


def draw_scene(rng: Generator, sources: Sources, size: int) -> Scene:
    """Draw one square scene of ``size`` pixels a side; the same generator state gives the same scene."""
    background = sources.backgrounds[rng.integers(len(sources.backgrounds))]
    # Dimmed and flattened, so that strokes stand out although the photograph stays cluttered.
    image = 0.6 * _crop(rng, background, size, size).astype(np.float32) + 20
    labels = np.full((size, size), 1 + SEG_CLASSES.index('background'), np.uint8)
    for _ in range(rng.integers(1, 3)):
        _lay_texture(rng, sources, image, labels)
    scene = Scene(image, labels, marker=('red', 'blue')[rng.integers(2)])
    _put_coin(rng, sources, scene)
    wanted = rng.integers(3, 7)
    for _ in range(MAX_TRIES):
        if len(scene.things) == wanted:
            break
        _put_digit(rng, sources, scene)
    scene.image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    return scene


def _crop(rng: Generator, region: Region, height: int, width: int) -> NDArray[np.uint8]:
    """A random crop of the region, scaled to the size asked for and mirrored half of the time."""
    pixels = region.pixels
    # One factor for both sides, so that narrow regions are enlarged rather than stretched.
    factor = min(rng.uniform(0.8, 1.2), pixels.shape[0] / height, pixels.shape[1] / width)
    h, w = max(int(height * factor), 1), max(int(width * factor), 1)
    top, left = rng.integers(pixels.shape[0] - h + 1), rng.integers(pixels.shape[1] - w + 1)
    crop = cv2.resize(pixels[top : top + h, left : left + w], (width, height), interpolation=cv2.INTER_LINEAR)
    return crop[:, ::-1] if rng.integers(2) else crop


def _lay_texture(rng: Generator, sources: Sources, image: NDArray, labels: NDArray) -> None:
    """Fill a half plane or an ellipse with a texture."""
    size = len(labels)
    kind = rng.integers(len(sources.textures))
    y, x = np.mgrid[:size, :size] / size - 0.5
    if rng.integers(2):
        angle = rng.uniform(0, 2 * np.pi)
        where = x * np.cos(angle) + y * np.sin(angle) > rng.uniform(0.0, 0.3)
    else:
        cx, cy = rng.uniform(-0.4, 0.4, 2)
        rx, ry = rng.uniform(0.2, 0.4, 2)
        where = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
    region = sources.textures[kind]
    image[where] = _crop(rng, region, size, size)[where]
    labels[where] = 1 + SEG_CLASSES.index(region.photo)


def _put_coin(rng: Generator, sources: Sources, scene: Scene) -> None:
    """Paste the marker: one coin of 18 to 24 pixels in the colour that decides."""
    size = len(scene.labels)
    side = int(rng.integers(18, 25))
    coin = sources.coins[rng.integers(len(sources.coins))]
    grey = cv2.resize(coin.pixels, (side, side), interpolation=cv2.INTER_AREA).mean(axis=2, keepdims=True)
    top, left = rng.integers(size - side + 1, size=2)
    at = np.s_[top : top + side, left : left + side]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    disc = x**2 + y**2 <= (side / 2) ** 2
    tinted = np.clip(grey * 1.1 + 20, 0, 255) * np.array(TINTS[scene.marker])
    scene.image[at][disc] = tinted[disc]
    scene.labels[at][disc] = 1 + SEG_CLASSES.index('coin')


def _put_digit(rng: Generator, sources: Sources, scene: Scene) -> None:
    """Draw one digit over what is there, unless it would hide too much of an object or of the coin."""
    size = len(scene.labels)
    digit = DIGITS[rng.integers(len(DIGITS))]
    smallest, largest = SMALLEST / FILLED, min(LARGEST / FILLED, 0.9 * size)
    side = round(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    alpha = _stroke(rng, sources.digits[digit][rng.integers(len(sources.digits[digit]))], side)
    colour = _bright_colour(rng)
    top, left = rng.integers(size - side + 1, size=2)
    whole = np.zeros((size, size), np.float32)
    whole[top : top + side, left : left + side] = alpha
    mask = whole >= 0.5
    coin = scene.labels == 1 + SEG_CLASSES.index('coin')
    if (mask & coin).any() or any(_hidden_by(thing, mask) for thing in scene.things):
        return
    for thing in scene.things:
        thing.mask &= ~mask
    scene.image[:] = scene.image * (1 - whole[..., None]) + colour * whole[..., None]
    category = {0: 'zero', 1: 'one', 4: f'four_{scene.marker}'}[digit]
    scene.labels[(whole > 0.2) & ~mask & ~coin] = 0
    scene.labels[mask] = 1 + SEG_CLASSES.index(category)
    scene.things.append(Thing(category, mask, int(mask.sum())))


def _hidden_by(thing: Thing, mask: NDArray[np.bool_]) -> bool:
    return (thing.mask & ~mask).sum() < MIN_VISIBLE * thing.full_area


def _stroke(rng: Generator, digit: NDArray, side: int) -> NDArray[np.float32]:
    """Opacity (side, side) of an 8x8 digit, enlarged smoothly, turned a little, with a soft edge."""
    padded = np.pad(digit.astype(np.float32), 1)
    turn = cv2.getRotationMatrix2D((4.5, 4.5), float(rng.uniform(-15, 15)), 1.0)
    turned = cv2.warpAffine(padded, turn, (10, 10), flags=cv2.INTER_LINEAR)
    large = cv2.resize(turned, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip((large - 0.25) * 4, 0, 1)


def _bright_colour(rng: Generator) -> NDArray[np.float32]:
    """A light colour: yellow, green, cyan, white or pink, never the coin's plain red or blue."""
    palette = ((255, 235, 60), (90, 255, 90), (120, 255, 255), (255, 255, 255), (255, 170, 230))
    return np.array(palette[rng.integers(len(palette))], np.float32) * rng.uniform(0.85, 1.0)
