"""PlainMamba (arXiv 2403.17695), dense or with token pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmssmprune.models.layers.patch_embed import ConvStemPatchEmbed, resize_pos_embed
from mmssmprune.models.layers.plain_mamba_layer import PlainMambaLayer
from mmssmprune.pruning import ScanPath, Stage, TokenState, snake_path

from .base import PrunableBackbone, drop_path_rates, resolve_arch, resolve_out_indices


@MODELS.register_module()
class PlainMamba(PrunableBackbone):
    """PlainMamba: a convolutional stem, then layers of one width and resolution that scan along four snakes.

    Args:
        arch: ``'L1'``, ``'L2'``, ``'L3'`` (any case), or a dict with ``embed_dims``, ``num_layers`` and optionally
            ``num_convs``, ``layers_with_dwconv``, ``mixer_cfg``.
        img_size: side of the training images in pixels, or (H, W); sets the grid of the position embedding.
        patch_size: side of a patch in pixels; the stem halves the resolution first, so it must be even.
        in_channels: channels of the image.
        out_indices: layers whose output is returned, 0-based; negative numbers count from the end.
        out_type: ``'featmap'`` for maps, or ``'avg_featmap'`` for the mean (B, C) over the tokens that the last layer
            has left, normalised, which the official classifier reads.
        drop_path_rate: stochastic depth of the last layer; it grows linearly from 0 at the first.
        final_norm: normalise the output of the last layer (key ``ln1``). Earlier outputs always have a norm of their
            own (``norm_layer{i}``).
        embed_dims, num_layers, num_convs, layers_with_dwconv, mixer_cfg: override the settings of ``arch``.
        pruning: the `pruning` dict, or None for the dense model. E.g. ``dict(layers=[5, 11, 17], keep_ratio=0.7,
            importance='clip', alignment='carry', conv_fill='zero', restoration='follow')``.
        with_cp: gradient checkpointing of every layer.
        init_cfg: as in mmengine; see `PrunableBackbone`.

    State-dict keys equal those of the official repository (ChenhongyiYang/PlainMamba).
    """

    arch_zoo = {  # noqa: RUF012
        'l1': dict(embed_dims=192, num_layers=24, num_convs=1, layers_with_dwconv=(0,), mixer_cfg={}),
        'l2': dict(embed_dims=384, num_layers=24, num_convs=2, layers_with_dwconv=(), mixer_cfg={}),
        'l3': dict(embed_dims=448, num_layers=36, num_convs=2, layers_with_dwconv=(), mixer_cfg={}),
    }
    optional_in_checkpoint = (*PrunableBackbone.optional_in_checkpoint, 'norm_layer')
    out_types = ('featmap', 'avg_featmap')

    def __init__(
        self,
        arch: str | dict = 'L1',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        final_norm: bool = True,
        embed_dims: int | None = None,
        num_layers: int | None = None,
        num_convs: int | None = None,
        layers_with_dwconv: Sequence[int] | None = None,
        mixer_cfg: dict | None = None,
        pruning: dict | None = None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ):
        overrides = dict(embed_dims=embed_dims, num_layers=num_layers, num_convs=num_convs)
        overrides.update(layers_with_dwconv=layers_with_dwconv, mixer_cfg=mixer_cfg)
        settings = resolve_arch(arch, self.arch_zoo, overrides)
        super().__init__(with_cp, init_cfg, out_type)
        if patch_size % 2:
            raise ValueError(f'patch_size must be even, since the stem halves the resolution; got {patch_size}')
        self.embed_dims = settings['embed_dims']
        depth = settings['num_layers']
        self.out_indices = resolve_out_indices(out_indices, depth)
        self._check_vector(depth, final_norm)
        self.patch_embed = ConvStemPatchEmbed(in_channels, self.embed_dims, patch_size, settings.get('num_convs', 1))
        img_hw = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.pos_hw = self.patch_embed.grid_of(img_hw)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.pos_hw[0] * self.pos_hw[1], self.embed_dims))
        self._make_layers(settings, drop_path_rate)
        if final_norm:
            self.ln1 = nn.LayerNorm(self.embed_dims, eps=1e-6)
        for i in self.out_indices:
            if i != depth - 1:
                self.add_module(f'norm_layer{i}', nn.LayerNorm(self.embed_dims, eps=1e-6))
        self._initialise()
        self.set_pruning(pruning)

    def set_pruning(self, pruning: Mapping[str, Any] | None) -> None:
        """As in the base, after a look at the layers that end with a convolution over the whole grid."""
        super().set_pruning(pruning)
        last = max((i for i, layer in enumerate(self.layers) if layer.replaces_tokens), default=0)
        if self.pruner.plan and any(first < last for first in self.pruner.plan.layers[:1]):
            raise ValueError(
                f'layers_with_dwconv replaces all tokens by a convolution, so pruning must start at layer {last} or '
                f'later, not at {self.pruner.plan.layers[0]}'
            )

    def _make_layers(self, settings: dict, drop_path_rate: float) -> None:
        with_dwconv = tuple(settings.get('layers_with_dwconv', ()))
        rates = drop_path_rates(drop_path_rate, settings['num_layers'])
        self.layers = nn.ModuleList(
            PlainMambaLayer(self.embed_dims, settings.get('mixer_cfg', {}), rate, use_dwconv=i in with_dwconv)
            for i, rate in enumerate(rates)
        )

    def _initialise(self) -> None:
        """Start as the official training runs did.

        Their config sets every Linear, the step-size projection included, to a normal of 0.02 with zero bias; the
        inverse-softplus bias that the official class first writes is overwritten by it.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for layer in self.layers:
            nn.init.trunc_normal_(layer.mamba.direction_Bs, std=0.02)

    @property
    def stages(self) -> tuple[Stage]:
        """One: every layer sees the same grid, and its four directions share their parameters."""
        return (Stage(self.layers, self.embed_dims, self.layers[0].mamba.d_inner),)

    def grids_of(self, hw: tuple[int, int]) -> list[tuple[int, int]]:
        """The token grid (h, w) of an image of (H, W) pixels, in a list."""
        return [self.patch_embed.grid_of(hw)]

    def scan_path(self, hw_shape: tuple[int, int], device: torch.device) -> ScanPath:
        """Four snakes."""
        return snake_path(*hw_shape, device)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> tokens with positions (B, h*w, C) and the grid (h, w)."""
        x, hw_shape = self.patch_embed(images)
        return x + self.pos_embed_of(hw_shape), hw_shape

    def pos_embed_of(self, hw_shape: tuple[int, int]) -> Tensor:
        """Position embedding (1, h*w, C)."""
        return resize_pos_embed(self.pos_embed, self.pos_hw, hw_shape)

    def output(self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState) -> Tensor:
        """The normalised map (B, C, h, w) of an output layer, or the mean (B, C) of its tokens."""
        if self.returns_vector:
            return self._norm(streams[0], layer).mean(1)
        (x,) = self.pruner.restore(streams, tokens)
        return self._norm(x, layer).transpose(1, 2).unflatten(2, tokens.hw_shape).contiguous()

    def _norm(self, x: Tensor, layer: int) -> Tensor:
        norm = f'norm_layer{layer}' if layer != self.num_layers - 1 else 'ln1'
        return getattr(self, norm)(x) if hasattr(self, norm) else x
