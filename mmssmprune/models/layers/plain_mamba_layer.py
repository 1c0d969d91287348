"""One PlainMamba layer (arXiv 2403.17695), with the behaviours that the released checkpoints depend on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssmprune._values import flag, whole
from mmssmprune.models.layers.drop_path import DropPath
from mmssmprune.models.layers.projection import mixer_sizes
from mmssmprune.pruning import LayerTrace, RawDelta, TokenState, conv_over_grid, module_over_grid, scan_over_tokens

PARAM_ORDERS = ('raster', 'scan')


class PlainMambaMixer(nn.Module):
    """2-D selective scan along four snakes.

    Args:
        embed_dims: channels C of the tokens.
        d_state: size N of the state per channel.
        expand: d_inner = expand * embed_dims.
        conv_size: side of the depthwise convolution.
        dt_rank: rank of the step-size projection; ``'auto'`` means ceil(embed_dims / 16).
        bias: biases of in_proj and out_proj.
        conv_bias: bias of the depthwise convolution.
        param_order: ``'raster'`` (official): scan step t combines the input of the cell visited at t with the delta, B
            and C of the t-th cell in raster order, because only the input is permuted. ``'scan'`` permutes all of
            them, which is what the paper describes; released checkpoints need ``'raster'``. Over kept tokens
            ``'raster'`` means the raster order of the kept tokens.
    """

    def __init__(
        self,
        embed_dims: int,
        d_state: int = 16,
        expand: int = 2,
        conv_size: int = 7,
        dt_rank: int | str = 'auto',
        bias: bool = True,
        conv_bias: bool = True,
        param_order: str = 'raster',
    ):
        super().__init__()
        if param_order not in PARAM_ORDERS:
            raise ValueError(f'param_order is {param_order!r}; the names are {", ".join(PARAM_ORDERS)}')
        d_inner, self.dt_rank, d_state = mixer_sizes(embed_dims, d_state, expand, dt_rank)
        if whole('conv_size', conv_size) % 2 == 0:
            raise ValueError(f'conv_size must be odd, so that the convolution keeps the grid, got {conv_size}')
        conv_size, bias, conv_bias = int(conv_size), flag('bias', bias), flag('conv_bias', conv_bias)
        self.d_inner = d_inner
        self.d_state = d_state
        self.param_order = param_order
        self.in_proj = nn.Linear(embed_dims, 2 * d_inner, bias=bias)
        self.conv2d = nn.Conv2d(d_inner, d_inner, conv_size, padding=conv_size // 2, groups=d_inner, bias=conv_bias)
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        # Rows: start, right, left, up, down.
        self.direction_Bs = nn.Parameter(torch.zeros(5, d_state))
        self.out_proj = nn.Linear(d_inner, embed_dims, bias=bias)

    def forward(self, x: Tensor, tokens: TokenState) -> tuple[Tensor, LayerTrace]:
        """Mix tokens (B, K, C); returns (B, K, C) and what importance is read from."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        u = F.silu(conv_over_grid(x, self.conv2d, tokens))
        delta, B, C = self.parameters_of(u)
        # Official: dt_proj was called with its bias, and the scan adds the bias once more.
        raw_delta = RawDelta(delta, self.dt_proj.bias, 2 * self.dt_proj.bias)
        trace = self.scan(u, raw_delta, B, C, z, tokens)
        return self.out_proj(trace.y), trace

    def parameters_of(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step sizes (B, K, d_inner), with dt_proj's bias once, and B and C (B, K, d_state) of tokens u."""
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return self.dt_proj(dt), B, C

    def scan(self, u: Tensor, raw_delta: RawDelta, B: Tensor, C: Tensor, z: Tensor, tokens: TokenState) -> LayerTrace:
        """Scan u (B, K, d_inner) along the four snakes, which share every parameter; gated by z (B, K, d_inner).

        The directions are summed, not averaged, so D u counts four times.
        """
        A = -torch.exp(self.A_log)
        return scan_over_tokens(u, raw_delta, A, B, C, self.D, z, tokens, self.direction_Bs, self.param_order)


class PlainMambaLayer(nn.Module):
    """x + mixer(LN(x)); with ``use_dwconv`` a convolution then *replaces* the tokens (layer 0 of L1).

    Args:
        embed_dims: channels C.
        mixer_cfg: further arguments of `PlainMambaMixer`.
        drop_path_rate: rate of stochastic depth on the mixer's branch.
        use_dwconv: append 3x3 depthwise conv, BN, GELU, without a residual around it.
    """

    def __init__(self, embed_dims: int, mixer_cfg: dict, drop_path_rate: float = 0.0, use_dwconv: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims, eps=1e-5)
        self.mamba = PlainMambaMixer(embed_dims, **mixer_cfg)
        self.drop_path = DropPath(drop_path_rate)
        if use_dwconv:
            conv = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims, bias=False)
            self.dw = nn.Sequential(conv, nn.BatchNorm2d(embed_dims), nn.GELU())

    @property
    def replaces_tokens(self) -> bool:
        """Whether it ends with a convolution over the whole grid, which pruned cells cannot pass through."""
        return hasattr(self, 'dw')

    def forward(self, x: Tensor, tokens: TokenState) -> tuple[Tensor, LayerTrace]:
        """Return the tokens (B, K, C) and what importance is read from."""
        mixed, trace = self.mamba(self.norm(x), tokens)
        x = x + self.drop_path(mixed)
        if self.replaces_tokens:
            x = module_over_grid(x, self.dw, tokens)
        return x, trace
