"""Backbones to time, dense and pruned, and what one call of them is: a forward pass or a training step's two passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmssmprune import models
from mmssmprune.models.flops import count_on_meta, on_meta
from mmssmprune.ops.scan import SCAN_BACKENDS

from .cases import BACKBONES
from .command_line import DTYPES
from .memory import environment

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
    case: BackboneCase, keep_ratio: float | None, alignment: str | None, layers: Sequence[int] | None
) -> nn.Module:
    """A backbone with random weights; without ``keep_ratio`` the dense one.

    At 224x224 it returns one vector per image, as for classification; elsewhere four maps, restored after each quarter
    of the depth, or of VMamba after each stage. Without ``layers`` it prunes once after a quarter of the depth, and
    VMamba where it does by default.
    """
    name, arch = BACKBONES[case.backbone]
    cls = getattr(models, name)
    settings, chosen = _of_stages(case) if cls is models.VMamba else _of_one_grid(case, cls, arch)
    if keep_ratio is not None:
        chosen = list(layers) if layers else chosen
        settings |= {'pruning': dict(layers=chosen, keep_ratio=keep_ratio, alignment=alignment)}
    torch.manual_seed(0)
    return cls(arch, **settings)


def _of_stages(case: BackboneCase) -> tuple[dict[str, Any], str]:
    """Arguments of a VMamba, and where it prunes."""
    return ({'out_type': 'avg_featmap', 'out_indices': -1} if case.image == CLASSIFICATION else {}), 'default'


def _of_one_grid(case: BackboneCase, cls: type, arch: str) -> tuple[dict[str, Any], list[int]]:
    """Arguments of PlainMamba and Vim, and after which layers they prune."""
    depth = cls.arch_zoo[arch.lower()]['num_layers']
    settings: dict[str, Any] = {'img_size': case.padded}
    if case.image == CLASSIFICATION:
        settings |= {'out_type': 'cls_token' if cls is models.Vim else 'avg_featmap'}
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


def forward_of(model: nn.Module, images: Tensor, dtype: torch.dtype, backend: str | None = None) -> Callable[[], None]:
    """One forward pass without gradients, under autocast for a ``dtype`` other than float32, by a scan backend."""
    model.eval()

    def run() -> None:
        variables = {} if backend is None else {SCAN_BACKENDS.variable: backend}
        with environment(**variables), torch.no_grad(), _autocast(images.device, dtype):
            model(images)

    return run


def training_of(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward of the sum of all outputs; no optimizer step."""
    model.train()

    def run() -> None:
        with torch.enable_grad():
            with _autocast(images.device, dtype):
                loss = sum(out.float().sum() for out in model(images))
            loss.backward()
        for parameter in model.parameters():
            parameter.grad = None

    return run


def calls_to_weigh(
    image: Sequence[int], batch: int, backbone: str, dtype: str, **arguments: Any
) -> Iterator[Callable[[], None]]:
    """A training step on a CPU, of a small image and of the wanted case; ``arguments`` are those of `make_backbone`."""
    for case in (BackboneCase(backbone, (64, 96), 1), BackboneCase(backbone, tuple(image), batch)):
        images = make_images(case, torch.device('cpu'))
        yield training_of(make_backbone(case, **arguments), images, DTYPES[dtype])


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
