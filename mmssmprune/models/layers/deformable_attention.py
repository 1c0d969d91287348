"""Multi-scale deformable attention with the keys and the value width of ViT-Adapter; mmcv computes the sampling."""

from __future__ import annotations

import math

import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import Tensor, nn

from mmssmprune.ops.constants import kept_constant


class MSDeformAttn(nn.Module):
    """Each query samples ``n_points`` places around its reference point on every level (arXiv 2010.04159).

    Args:
        embed_dims: channels C of queries and features.
        num_heads: attention heads.
        n_levels: feature levels.
        n_points: samples per head and level.
        ratio: width of the values as a share of ``embed_dims``.
    """

    def __init__(self, embed_dims: int, num_heads: int, n_levels: int, n_points: int = 4, ratio: float = 1.0):
        super().__init__()
        value_dims = int(embed_dims * ratio)
        if value_dims < 1 or value_dims % num_heads:
            raise ValueError(f'{num_heads} attention heads do not divide the {value_dims} value channels')
        self.num_heads, self.n_levels, self.n_points = num_heads, n_levels, n_points
        samples = num_heads * n_levels * n_points
        self.sampling_offsets = nn.Linear(embed_dims, 2 * samples)
        self.attention_weights = nn.Linear(embed_dims, samples)
        self.value_proj = nn.Linear(embed_dims, value_dims)
        self.output_proj = nn.Linear(value_dims, embed_dims)
        self._initialise()

    def _initialise(self) -> None:
        """Start with equal weights and points on rays, one ray per head, further out point by point."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ray = torch.stack([angle.cos(), angle.sin()], -1)
        ray = ray / ray.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.n_points + 1).view(1, 1, -1, 1)
        offsets = ray[:, None, None] * steps.expand(-1, self.n_levels, -1, -1)
        self.sampling_offsets.bias.data.copy_(offsets.flatten())
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, reference_points: Tensor, feat: Tensor, level_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Return (B, Q, C).

        Args:
            query: (B, Q, C).
            reference_points: (B or 1, Q, 1, 2) x and y in [0, 1].
            feat: (B, sum of h*w, C), the levels one after the other.
            level_shapes: (h, w) of each level.
        """
        batch, queries, _ = query.shape
        heads, levels, points = self.num_heads, self.n_levels, self.n_points
        value = self.value_proj(feat).unflatten(2, (heads, -1))
        offsets = self.sampling_offsets(query).view(batch, queries, heads, levels, points, 2)
        weights = self.attention_weights(query).view(batch, queries, heads, levels * points).softmax(-1)
        weights = weights.view(batch, queries, heads, levels, points)
        shapes = _as_tensor(tuple(level_shapes), query.device)
        # An offset of 1 is one cell of the level it samples; the shapes are (h, w), the offsets (x, y).
        cells = shapes.flip(1).to(offsets.dtype)
        locations = reference_points[:, :, None, :, None] + offsets / cells[:, None]
        return self.output_proj(_sample(value, level_shapes, shapes, locations, weights).to(query.dtype))


@kept_constant
def _as_tensor(level_shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """The shapes as (levels, 2) int64, without sending numbers to a GPU, for which the host would wait."""
    sizes = [torch.full((), size, dtype=torch.int64, device=device) for shape in level_shapes for size in shape]
    return torch.stack(sizes).view(-1, 2)


def _sample(
    value: Tensor, level_shapes: list[tuple[int, int]], shapes: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of the sampled values; float32 or wider, as the official adapter forces it."""
    wide = torch.promote_types(value.dtype, torch.float32)
    value, locations, weights = value.to(wide), locations.to(wide), weights.to(wide)
    if not value.is_cuda:
        # It reads the shapes as numbers, which a tensor on the device 'meta' does not have.
        return multi_scale_deformable_attn_pytorch(value, level_shapes, locations, weights)
    cells = shapes.prod(1)
    level_start = torch.cat([cells.new_zeros(1), cells.cumsum(0)[:-1]])
    return MultiScaleDeformableAttnFunction.apply(value, shapes, level_start, locations, weights, 64)


def grid_reference_points(shapes: list[tuple[int, int]], like: Tensor) -> Tensor:
    """Centres of all cells of the given grids, (1, sum of h*w, 1, 2) x and y in (0, 1), on the device of ``like``."""
    wide = torch.promote_types(like.dtype, torch.float32)
    points = []
    for height, width in shapes:
        y = (torch.arange(height, device=like.device, dtype=wide) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=wide) + 0.5) / width
        points.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).flatten(0, 1))
    return torch.cat(points)[None, :, None]
