"""An exported file beside the model that it came from, on random images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .parts import ExportedPart
from .program import channels_of

Run = Callable[[Tensor], list[Tensor]]
# The largest difference to expect of float32 sums in another order, as a share of the largest value.
TOLERANCE = 1e-3
# A runtime that rounds otherwise may keep another token of two that are as important but for the last digits.
OTHER_TOKENS = 0.02


@dataclass(frozen=True)
class Deviation:
    """Between a file and its model, for one batch.

    Attributes:
        size: (B, H, W) of the images.
        largest: of all outputs, absolute.
        scale: the largest absolute value of the model's outputs.
        share: of values that differ by more than `TOLERANCE` of ``scale``.
    """

    size: tuple[int, int, int]
    largest: float
    scale: float
    share: float

    @property
    def agrees(self) -> bool:
        """Whether rounding explains it; of a pruned model a few tokens may be others (`OTHER_TOKENS`)."""
        return math.isfinite(self.largest) and self.share <= OTHER_TOKENS


def load(path: str | Path, threads: int | None = None) -> Run:
    """What runs a file: onnxruntime on the CPU for ``.onnx``, else torch."""
    if Path(path).suffix == '.onnx':
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        return lambda images: [torch.from_numpy(out) for out in session.run(None, {'images': images.numpy()})]
    module = torch.export.load(path).module()
    return lambda images: list(module(images))


def sizes_to_check(shape: tuple[int, int], dynamic: str | None, batch: int = 1) -> list[tuple[int, int, int]]:
    """(B, H, W) of the batches to compare: several where the batch size is open, and further where sizes are."""
    height, width = shape
    if dynamic is None:
        return [(batch, height, width)]
    sizes = [(n, height, width) for n in (1, 2, 5)]
    return sizes + [(1, height + 32, width), (2, height, width + 64)] * (dynamic == 'hw')


@torch.no_grad()
def differences(part: ExportedPart, run: Run, sizes: list[tuple[int, int, int]], seed: int = 0) -> Iterator[Deviation]:
    """Compare ``run`` with ``part`` on images of standard normal noise."""
    generator = torch.Generator().manual_seed(seed)
    for batch, *hw in sizes:
        images = torch.randn(batch, channels_of(part), *hw, generator=generator)
        pairs = list(zip(part(images), run(images), strict=True))
        scale = max(float(want.abs().max()) for want, _ in pairs)
        apart = torch.cat([(want - got).abs().flatten() for want, got in pairs])
        share = float((apart > TOLERANCE * scale).double().mean())
        yield Deviation((batch, *hw), float(apart.max()), scale, share)
