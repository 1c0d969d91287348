"""Backbones to time, dense and pruned, and what one call of them is: a forward pass or a training step's two passes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmssmprune.models import PlainMamba, Vim, VMamba
from mmssmprune.models.flops import count_on_meta, on_meta
from mmssmprune.ops.scan import SCAN_BACKENDS

BACKBONES = {
    'plain-mamba-l1': (PlainMamba, 'L1'),
    'plain-mamba-l2': (PlainMamba, 'L2'),
    'plain-mamba-l3': (PlainMamba, 'L3'),
    'vim-t': (Vim, 'tiny'),
    'vim-s': (Vim, 'small'),
    'vmamba-t': (VMamba, 'tiny'),
    'vmamba-s': (VMamba, 'small'),
    'vmamba-b': (VMamba, 'base'),
}
PATCH = 16
CLASSIFICATION = (224, 224)


@dataclass(frozen=True)
class BackboneCase:
    """A backbone over a batch of images (H, W) in pixels."""

    backbone: str
    image: tuple[int, int]
    batch: int

    @property
    def padded(self) -> tuple[int, int]:
        """The image padded to whole patches at the bottom and right, as detectors pad it."""
        return tuple(-(-side // PATCH) * PATCH for side in self.image)


def make_backbone(
    case: BackboneCase, keep_ratio: float | None, alignment: str, layers: Sequence[int] | None
) -> nn.Module:
    """A backbone with random weights; None builds the dense one.

    At 224x224 it returns one vector per image, as for classification; elsewhere four maps, restored after each quarter
    of the depth, or of VMamba after each stage. Without ``layers`` it prunes once after a quarter of the depth, and
    VMamba where it does by default.
    """
    cls, arch = BACKBONES[case.backbone]
    settings, chosen = (_of_stages if cls is VMamba else _of_one_grid)(case)
    if keep_ratio is not None:
        chosen = list(layers) if layers else chosen
        settings |= {'pruning': dict(layers=chosen, keep_ratio=keep_ratio, alignment=alignment)}
    torch.manual_seed(0)
    return cls(arch, **settings)


def _of_stages(case: BackboneCase) -> tuple[dict[str, Any], str]:
    """Arguments of a VMamba, and where it prunes."""
    return ({'out_type': 'avg_featmap', 'out_indices': -1} if case.image == CLASSIFICATION else {}), 'default'


def _of_one_grid(case: BackboneCase) -> tuple[dict[str, Any], list[int]]:
    """Arguments of PlainMamba and Vim, and after which layers they prune."""
    cls, arch = BACKBONES[case.backbone]
    depth = cls.arch_zoo[arch.lower()]['num_layers']
    settings: dict[str, Any] = {'img_size': case.padded}
    if case.image == CLASSIFICATION:
        settings |= {'out_type': 'cls_token' if cls is Vim else 'avg_featmap'}
    else:
        settings |= {'out_indices': tuple(quarter * depth // 4 - 1 for quarter in (1, 2, 3, 4))}
    return settings, [depth // 4 - 1]


def make_images(case: BackboneCase, device: torch.device) -> Tensor:
    """Noise (B, 3, H, W); which tokens are kept does not change how long it takes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(case.batch, 3, *case.padded, generator=generator).to(device)


def count_flops(model: nn.Module, case: BackboneCase) -> int:
    """FLOPs of one image, by the convention of `mmssmprune.models.flops`."""
    return count_on_meta(on_meta(model), case.padded)


@contextmanager
def scan_backend(name: str | None) -> Iterator[None]:
    """Let the scans run in a named backend, or in the default one, within the block."""
    before = os.environ.get(SCAN_BACKENDS.variable)
    try:
        if name is not None:
            os.environ[SCAN_BACKENDS.variable] = name
        yield
    finally:
        if name is not None:
            os.environ.pop(SCAN_BACKENDS.variable)
            if before is not None:
                os.environ[SCAN_BACKENDS.variable] = before


def forward_of(model: nn.Module, images: Tensor, dtype: torch.dtype, backend: str | None = None) -> Callable[[], None]:
    """One forward pass without gradients, under autocast for a ``dtype`` other than float32."""
    model.eval()

    def run() -> None:
        with scan_backend(backend), torch.no_grad(), _autocast(images.device, dtype):
            model(images)

    return run


def training_of(model: nn.Module, images: Tensor, dtype: torch.dtype, backend: str | None = None) -> Callable[[], None]:
    """Forward and backward of the sum of all outputs; no optimizer step."""
    model.train()

    def run() -> None:
        with scan_backend(backend), torch.enable_grad():
            with _autocast(images.device, dtype):
                loss = sum(out.float().sum() for out in model(images))
            loss.backward()
        for parameter in model.parameters():
            parameter.grad = None

    return run


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
