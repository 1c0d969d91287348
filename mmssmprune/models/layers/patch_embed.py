"""From pixels to tokens, and position embeddings for any grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def check_image_size(hw: tuple[int, int], patch_size: int) -> None:
    """Raise ValueError for an image (H, W) in pixels that is smaller than one patch."""
    if min(hw) < patch_size:
        raise ValueError(
            f'the image is {hw[0]}x{hw[1]} pixels, smaller than one {patch_size}x{patch_size} patch; '
            f'resize it to at least {patch_size} pixels a side'
        )


def padding_advice(divisor: int) -> str:
    """How a user of each suite gets images whose sides are multiples of ``divisor`` pixels."""
    return (
        f'pad it to a multiple of {divisor} in the data_preprocessor: pad_size_divisor={divisor} (mmdet, mmpretrain), '
        f'or size_divisor={divisor} and, for testing, test_cfg=dict(size_divisor={divisor}) (mmseg)'
    )


def resize_pos_embed(
    pos_embed: Tensor,
    src_hw: tuple[int, int],
    dst_hw: tuple[int, int],
    class_tokens: int = 0,
    mode: str = 'bicubic',
) -> Tensor:
    """Resize position embeddings (1, h*w, C) from one grid to another, bicubically as both official models do.

    The first rows are taken for those of ``class_tokens`` and stay. For a class token in the middle these are rows of
    patches; the official interpolation does this, and checkpoints were fine-tuned after it.
    """
    # A size that an exported program leaves open (no int) is resized whatever it is, to the same bits where they agree.
    if all(isinstance(side, int) for side in dst_hw) and src_hw == dst_hw:
        return pos_embed
    grid = pos_embed[:, class_tokens:].transpose(1, 2).unflatten(2, src_hw)
    align_corners = False if mode in ('bicubic', 'bilinear') else None
    grid = F.interpolate(grid, size=dst_hw, mode=mode, align_corners=align_corners)
    return torch.cat([pos_embed[:, :class_tokens], grid.flatten(2).transpose(1, 2)], dim=1)


class ConvStemPatchEmbed(nn.Module):
    """PlainMamba's stem: 7x7 stride 2 conv, ``num_convs`` 3x3 convs, then a projection by half patches.

    Maps (B, 3, H, W) to tokens (B, h*w, embed_dims) and (h, w). A size that the patch does not divide is padded with
    zeros at the bottom and right *after* the stem, as the official model does (mmcv's "corner" padding).
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, num_convs: int, stem_channels: int = 64):
        super().__init__()
        self.patch_size = patch_size
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_channels, 7, 2, 3, bias=False),
            nn.BatchNorm2d(stem_channels),
            nn.ReLU(inplace=True),
        )
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            conv = nn.Conv2d(stem_channels, stem_channels, 3, 1, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(stem_channels), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)
        half = patch_size // 2  # the stem has halved the resolution already
        self.projection = nn.Conv2d(stem_channels, embed_dims, half, half)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens (B, h*w, C) and the grid (h, w)."""
        check_image_size(tuple(x.shape[-2:]), self.patch_size)
        if x.device.type == 'cpu':  # these convolutions are a quarter faster there with channels adjacent
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.convs(self.stem(x))
        half = self.projection.kernel_size[0]
        missing = [(side + half - 1) // half * half - side for side in x.shape[2:]]
        x = F.pad(x, (0, missing[1], 0, missing[0]))
        x = self.projection(x)
        # Channels adjacent: the residual stream keeps this layout, and every layer would copy it otherwise.
        return x.flatten(2).transpose(1, 2).contiguous(), (x.shape[2], x.shape[3])

    def grid_of(self, hw: tuple[int, int]) -> tuple[int, int]:
        """The token grid (h, w) of an image of (H, W) pixels."""
        half = self.projection.kernel_size[0]
        return tuple(-(-((size + 1) // 2) // half) for size in hw)


class ConvPatchEmbed(nn.Module):
    """Vim's patch embedding: one convolution, ``stride`` may be smaller than the patch; no norm.

    The official module asserts the one size it was built for. Here every size goes that the stride tiles exactly;
    others are refused rather than cropped.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, stride: int):
        super().__init__()
        self.patch_size = patch_size
        self.stride = stride
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens (B, h*w, C) and the grid (h, w)."""
        self.grid_of(tuple(x.shape[-2:]))
        x = self.proj(x)
        # Channels adjacent: the residual stream keeps this layout, and every layer would copy it otherwise.
        return x.flatten(2).transpose(1, 2).contiguous(), (x.shape[2], x.shape[3])

    def grid_of(self, hw: tuple[int, int]) -> tuple[int, int]:
        """The token grid (h, w) of an image of (H, W) pixels; raises ValueError where the patches do not tile it."""
        check_image_size(hw, self.patch_size)
        if any((size - self.patch_size) % self.stride for size in hw):
            raise ValueError(
                f'patches of {self.patch_size} pixels at stride {self.stride} do not tile an image of {hw[0]}x{hw[1]} '
                f'pixels; {padding_advice(self.patch_size)}'
            )
        return tuple((size - self.patch_size) // self.stride + 1 for size in hw)
