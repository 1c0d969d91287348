"""A hierarchical backbone for tests: four stages of different width, grid and kind, downsampled in between."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn

from mmssmprune.models.backbones import PrunableBackbone
from mmssmprune.models.layers.patch_embed import ConvPatchEmbed
from mmssmprune.models.layers.plain_mamba_layer import PlainMambaLayer
from mmssmprune.pruning import ScanOrder, Stage, TokenState, snake_scan

DEPTHS, DIMS = (2, 2, 4, 2), (8, 12, 16, 20)


class FourStages(PrunableBackbone):
    """PlainMamba layers on grids of a quarter, an eighth, a 16th and a 32nd of the image; a map per stage."""

    def __init__(self, pruning: dict | None = None, with_cp: bool = False, init_cfg: dict | None = None):
        super().__init__(with_cp, init_cfg)
        self.out_indices = tuple(total - 1 for total in accumulate(DEPTHS))
        self.patch_embed = ConvPatchEmbed(3, DIMS[0], 4, 4)
        mixer = dict(d_state=3, conv_size=3)
        self.blocks = nn.ModuleList(
            nn.ModuleList(PlainMambaLayer(dims, dict(mixer, expand=1 + i % 2)) for _ in range(depth))
            for i, (depth, dims) in enumerate(zip(DEPTHS, DIMS, strict=True))
        )
        self.downsamples = nn.ModuleList(nn.Conv2d(DIMS[i], DIMS[i + 1], 3, 2, 1) for i in range(3))
        self.set_pruning(pruning)

    @property
    def stages(self) -> list[Stage]:
        firsts = [0, *accumulate(DEPTHS)]
        return [
            Stage(blocks, dims, blocks[0].mamba.d_inner, first=first)
            for blocks, dims, first in zip(self.blocks, DIMS, firsts, strict=False)
        ]

    def grids_of(self, hw: tuple[int, int]) -> list[tuple[int, int]]:
        grids = [self.patch_embed.grid_of(hw)]
        for _ in range(3):
            grids.append(tuple(-(-n // 2) for n in grids[-1]))
        return grids

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.patch_embed(images)

    def scan_order(self, hw_shape: tuple[int, int], device: torch.device) -> ScanOrder:
        return snake_scan(*hw_shape, device)

    def output(self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState) -> Tensor:
        (x,) = self.pruner.restore(streams, tokens)
        return x.transpose(1, 2).unflatten(2, tokens.hw_shape).contiguous()

    def leave(
        self, number: int, streams: tuple[Tensor, ...], hw_shape: tuple[int, int]
    ) -> tuple[Tensor, tuple[int, int]]:
        (x,) = streams
        grid = x.transpose(1, 2).unflatten(2, hw_shape).contiguous()
        grid = self.downsamples[number](grid)
        return grid.flatten(2).transpose(1, 2).contiguous(), tuple(grid.shape[2:])


def make_four_stages(**kwargs) -> FourStages:
    """Build one whose parameters are large enough for every part to matter; what pruning adds keeps its own start."""
    torch.manual_seed(0)
    model = FourStages(**kwargs)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and 'A_' not in name and not name.startswith('pruner.'):
            nn.init.normal_(parameter, std=0.3)
    return model.eval()
