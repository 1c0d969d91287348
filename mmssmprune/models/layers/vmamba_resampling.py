"""VMamba's steps between grids: from pixels to tokens, and from a stage to the next one. Tokens keep channels last.

Modules stand at the numbers that they have in the official Sequentials, whose other places reshape or activate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssmprune.models.layers.patch_embed import check_image_size

PATCH_EMBED_VERSIONS = ('v2', 'v1')
DOWNSAMPLE_VERSIONS = ('v3', 'v2', 'v1')


def check_version(name: str, version: str, known: tuple[str, ...]) -> str:
    """The version itself; raises ValueError for one that is not ``known``."""
    if version not in known:
        raise ValueError(f'{name} is {version!r}; the names are {", ".join(known)}')
    return version


def _window(conv: nn.Conv2d) -> tuple[int, int, int]:
    return conv.kernel_size[0], conv.stride[0], conv.padding[0]


def _conv_rows(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply a convolution to a grid (B, H, W, C); returns (B, H', W', C') with channels adjacent."""
    x = conv(x.permute(0, 3, 1, 2))
    return x.permute(0, 2, 3, 1).contiguous()


class VMambaPatchEmbed(nn.ModuleDict):
    """``'v2'``: two 3x3 convolutions of stride 2 (for patches of 4), each with a LayerNorm, a GELU between them.
    ``'v1'``: one convolution by patches and a LayerNorm, which crops what is no whole patch.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int, version: str = 'v2', patch_norm: bool = True
    ):
        super().__init__()
        self.version = check_version('patch_embed_version', version, PATCH_EMBED_VERSIONS)
        self.patch_size = patch_size
        if version == 'v1':
            self['0'] = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
            widths = {'2': embed_dims}
        else:
            if patch_size % 2 or embed_dims % 2:
                raise ValueError(f'patch_size and embed_dims must be even, got {patch_size} and {embed_dims}')
            stride, half = patch_size // 2, embed_dims // 2
            self['0'] = nn.Conv2d(in_channels, half, stride + 1, stride, 1)
            self['5'] = nn.Conv2d(half, embed_dims, stride + 1, stride, 1)
            widths = {'2': half, '7': embed_dims}
        if patch_norm:
            for place, width in widths.items():
                self[place] = nn.LayerNorm(width, eps=1e-5)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> tokens (B, h*w, C) and the grid (h, w)."""
        self.grid_of(tuple(images.shape[-2:]))
        if images.device.type == 'cpu':  # these convolutions are faster there with channels adjacent
            images = images.contiguous(memory_format=torch.channels_last)
        x = self._normed(_conv_rows(images.permute(0, 2, 3, 1), self['0']), '2')
        if self.version == 'v2':
            x = self._normed(_conv_rows(F.gelu(x), self['5']), '7')
        return x.flatten(1, 2), (x.shape[1], x.shape[2])

    @property
    def windows(self) -> list[tuple[int, int, int]]:
        """Side, step and padding of what looks at neighbours, one after the other."""
        return [_window(self[place]) for place in ('0', '5') if place in self]

    def _normed(self, x: Tensor, place: str) -> Tensor:
        return self[place](x) if place in self else x

    def grid_of(self, hw: tuple[int, int]) -> tuple[int, int]:
        """The token grid (h, w) of an image of (H, W) pixels."""
        if self.version == 'v1':
            check_image_size(hw, self.patch_size)
            return hw[0] // self.patch_size, hw[1] // self.patch_size
        step = self.patch_size // 2
        for _ in range(2):
            hw = tuple((side + 1 - step) // step + 1 for side in hw)
        if min(hw) < 1:
            check_image_size((0, 0), self.patch_size)
        return hw


class Downsample(nn.ModuleDict):
    """Half the grid by a convolution, then a LayerNorm: ``'v3'`` 3x3, which rounds up; ``'v2'`` 2x2, which crops."""

    def __init__(self, embed_dims: int, out_dims: int, version: str = 'v3'):
        super().__init__()
        side, padding = (3, 1) if version == 'v3' else (2, 0)
        self['1'] = nn.Conv2d(embed_dims, out_dims, side, 2, padding)
        self['3'] = nn.LayerNorm(out_dims, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, h, w, C')."""
        return self['3'](_conv_rows(x, self['1']))

    @property
    def windows(self) -> list[tuple[int, int, int]]:
        """As of `VMambaPatchEmbed`."""
        return [_window(self['1'])]

    def grid_of(self, hw: tuple[int, int]) -> tuple[int, int]:
        """The grid after it."""
        padding = self['1'].padding[0]
        return tuple((side + padding) // 2 for side in hw)


class PatchMerging(nn.Module):
    """Half the grid, rounded up (``'v1'``): four neighbours side by side, LayerNorm, Linear."""

    def __init__(self, embed_dims: int, out_dims: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * embed_dims, eps=1e-5)
        self.reduction = nn.Linear(4 * embed_dims, out_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, h, w, C')."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        neighbours = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(neighbours, -1)))

    @property
    def windows(self) -> list[tuple[int, int, int]]:
        """As of `VMambaPatchEmbed`."""
        return [(2, 2, 0)]

    def grid_of(self, hw: tuple[int, int]) -> tuple[int, int]:
        """The grid after it."""
        return tuple((side + 1) // 2 for side in hw)


def make_downsample(embed_dims: int, out_dims: int, version: str) -> Downsample | PatchMerging:
    """What ends a stage, by its official version."""
    check_version('downsample_version', version, DOWNSAMPLE_VERSIONS)
    return PatchMerging(embed_dims, out_dims) if version == 'v1' else Downsample(embed_dims, out_dims, version)
