"""Parts of the adapter that gives a plain backbone features at four strides (ViT-Adapter, arXiv 2205.08534)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .deformable_attention import MSDeformAttn
from .drop_path import DropPath
from .norm import make_norm

Shapes = list[tuple[int, int]]


class SpatialPrior(nn.Module):
    """A small CNN on the image: a map at stride 4 and tokens at strides 8, 16 and 32, all embed_dims wide."""

    def __init__(self, embed_dims: int, channels: int = 64, norm_cfg: dict | None = None, in_channels: int = 3):
        super().__init__()
        norm_cfg = norm_cfg or dict(type='SyncBN')

        def conv(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
            norm = make_norm(norm_cfg, c_out)
            return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), norm, nn.ReLU(inplace=True)]

        stem = [*conv(in_channels, channels, 2), *conv(channels, channels, 1), *conv(channels, channels, 1)]
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        self.conv2 = nn.Sequential(*conv(channels, 2 * channels, 2))
        self.conv3 = nn.Sequential(*conv(2 * channels, 4 * channels, 2))
        self.conv4 = nn.Sequential(*conv(4 * channels, 4 * channels, 2))
        for i, width in enumerate((channels, 2 * channels, 4 * channels, 4 * channels), start=1):
            self.add_module(f'fc{i}', nn.Conv2d(width, embed_dims, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return c1 (B, C, H/4, W/4) and c2, c3, c4 (B, h*w, C)."""
        c1 = self.stem(images)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        c4 = self.conv4(c3)
        tokens = (self.fc2(c2), self.fc3(c3), self.fc4(c4))
        return self.fc1(c1), *(c.flatten(2).transpose(1, 2) for c in tokens)


class MultiScaleDWConv(nn.Module):
    """One 3x3 depthwise convolution over the tokens of each level: (B, sum of h*w, C) -> same."""

    def __init__(self, dims: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dims, dims, 3, 1, 1, groups=dims)

    def forward(self, x: Tensor, shapes: Shapes) -> Tensor:
        """Convolve the levels of ``shapes`` apart."""
        parts = x.split([h * w for h, w in shapes], dim=1)
        maps = (p.transpose(1, 2).unflatten(2, hw).contiguous() for p, hw in zip(parts, shapes, strict=True))
        return torch.cat([self.dwconv(m).flatten(2).transpose(1, 2) for m in maps], dim=1)


class ConvFFN(nn.Module):
    """Linear, depthwise conv per level, GELU, linear."""

    def __init__(self, dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden_dims)
        self.dwconv = MultiScaleDWConv(hidden_dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dims, dims)

    def forward(self, x: Tensor, shapes: Shapes) -> Tensor:
        """(B, sum of h*w, C) -> same."""
        return self.fc2(self.act(self.dwconv(self.fc1(x), shapes)))


class Injector(nn.Module):
    """Backbone tokens query the spatial features: x + gamma * attention; gamma starts at ``init_values``."""

    def __init__(self, dims: int, attn_cfg: dict, init_values: float = 0.0):
        super().__init__()
        self.query_norm = nn.LayerNorm(dims, eps=1e-6)
        self.feat_norm = nn.LayerNorm(dims, eps=1e-6)
        self.attn = MSDeformAttn(dims, n_levels=3, **attn_cfg)
        self.gamma = nn.Parameter(torch.full((dims,), init_values))

    def forward(self, x: Tensor, reference_points: Tensor, c: Tensor, c_shapes: Shapes) -> Tensor:
        """X (B, K, C) at ``reference_points`` (B or 1, K, 1, 2), c (B, sum of h*w, C) -> (B, K, C)."""
        return x + self.gamma * self.attn(self.query_norm(x), reference_points, self.feat_norm(c), c_shapes)


class Extractor(nn.Module):
    """Spatial features query the backbone's map, then pass a convolutional FFN (drop path on the FFN only).

    Without ``cffn_ratio``, its width as a share of ``dims``, there is no FFN.
    """

    def __init__(self, dims: int, attn_cfg: dict, cffn_ratio: float | None, drop_path_rate: float):
        super().__init__()
        self.query_norm = nn.LayerNorm(dims, eps=1e-6)
        self.feat_norm = nn.LayerNorm(dims, eps=1e-6)
        self.attn = MSDeformAttn(dims, n_levels=1, **attn_cfg)
        self.with_ffn = cffn_ratio is not None
        if self.with_ffn and int(dims * cffn_ratio) < 1:
            raise ValueError(f'cffn_ratio {cffn_ratio} leaves no channel of {dims} for the FFN')
        if self.with_ffn:
            self.ffn = ConvFFN(dims, int(dims * cffn_ratio))
            self.ffn_norm = nn.LayerNorm(dims, eps=1e-6)
            self.drop_path = DropPath(drop_path_rate)

    def forward(
        self, c: Tensor, reference_points: Tensor, x: Tensor, hw_shape: tuple[int, int], c_shapes: Shapes
    ) -> Tensor:
        """C (B, sum of h*w, C), x (B, L, C) of every cell -> c."""
        c = c + self.attn(self.query_norm(c), reference_points, self.feat_norm(x), [hw_shape])
        return c + self.drop_path(self.ffn(self.ffn_norm(c), c_shapes)) if self.with_ffn else c


class Interaction(nn.Module):
    """The injector before a run of backbone layers and the extractor(s) after it."""

    def __init__(
        self,
        dims: int,
        attn_cfg: dict,
        cffn_ratio: float | None,
        drop_path_rate: float,
        extra_extractors: int,
        init_values: float = 0.0,
    ):
        super().__init__()
        self.injector = Injector(dims, attn_cfg, init_values)
        self.extractor = Extractor(dims, attn_cfg, cffn_ratio, drop_path_rate)
        extras = [Extractor(dims, attn_cfg, cffn_ratio, drop_path_rate) for _ in range(extra_extractors)]
        self.extra_extractors = nn.ModuleList(extras) if extras else None

    def extract(
        self, c: Tensor, reference_points: Tensor, x: Tensor, hw_shape: tuple[int, int], c_shapes: Shapes
    ) -> Tensor:
        """Run the extractor and the extra ones: c (B, sum of h*w, C), x (B, L, C) -> c."""
        for extractor in (self.extractor, *(self.extra_extractors or ())):
            c = extractor(c, reference_points, x, hw_shape, c_shapes)
        return c
