"""Whether the segmentation of a COCO annotation can be made into a mask."""

from __future__ import annotations

from typing import Any

LIMIT = 1e15  # beyond every coordinate; keeps arithmetic with what a broken file holds finite


def is_number(value: Any) -> bool:
    """A finite int or float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LIMIT < value < LIMIT


def good_polygons(mask: list[Any]) -> list[list[float]]:
    """The parts that mmdet keeps: three points or more, x and y in turn."""
    return [part for part in mask if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]


def mask_problem(mask: Any, height: float, width: float) -> str | None:
    """What makes a ``segmentation`` useless for an image of that size, as the end of "{n} masks ..."; None if nothing.

    Polygons need even numbers of coordinates, at least six, in one part or more. RLE, compressed or not, needs runs
    that add up to the image and some that are set.
    """
    if isinstance(mask, list) and mask:
        if not all(isinstance(part, list) and all(map(is_number, part)) for part in mask):
            return 'hold something other than lists of finite numbers'
        return None if good_polygons(mask) else 'have no polygon of three points or more'
    if not isinstance(mask, dict):
        return 'are neither polygons nor RLE' if mask else 'are missing or empty'
    size, counts = mask.get('size'), mask.get('counts')
    if size != [height, width]:
        return 'are of another size than their image'
    runs = rle_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(is_number(run) and run >= 0 and run == int(run) for run in runs):
        return 'hold RLE counts that cannot be decoded'
    if sum(runs) != height * width:
        return 'hold RLE counts that do not add up to the size of the image'
    return None if sum(runs[1::2]) else 'are RLE without a single pixel'


def rle_runs(text: str) -> list[int] | None:
    """Lengths of the runs in pycocotools' compressed RLE, or None where it is broken.

    pycocotools itself reads past the end of a broken one.
    """
    runs: list[int] = []
    value = shift = 0
    for char in text:
        code = ord(char) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:  # more to come
            continue
        if code & 16:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs
