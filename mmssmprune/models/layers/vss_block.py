"""One block of VMamba (arXiv 2401.10166), with the behaviours that the released checkpoints depend on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssmprune._values import flag, is_number, positive, whole
from mmssmprune.models.layers.drop_path import DropPath
from mmssmprune.models.layers.projection import start_step_sizes, step_size_rank
from mmssmprune.pruning import LayerTrace, RawDelta, TokenState, conv_over_grid, scan_over_tokens


class SS2D(nn.Module):
    """2-D selective scan along rows, columns and their reverses, four directions with parameters of their own.

    Args:
        embed_dims: channels C of the tokens.
        d_state: size N of the state per channel.
        ssm_ratio: d_inner = int(ssm_ratio * embed_dims).
        dt_rank: rank of the step-size projections; ``'auto'`` means ceil(embed_dims / 16).
        conv_size: side of the depthwise convolution; 1 means none.
        conv_bias: its bias.
        gated: multiply the normalised sum of the directions by SiLU(z), z a second half of in_proj (the first release,
            forward types without ``_noz``).
    """

    def __init__(
        self,
        embed_dims: int,
        d_state: int = 1,
        ssm_ratio: float = 2.0,
        dt_rank: int | str = 'auto',
        conv_size: int = 3,
        conv_bias: bool = False,
        gated: bool = False,
    ):
        super().__init__()
        self.dt_rank = step_size_rank(embed_dims, dt_rank)
        self.d_state = whole('d_state', d_state)
        self.d_inner = d_inner = int(positive('ssm_ratio', ssm_ratio) * embed_dims)
        if d_inner < 1:
            raise ValueError(f'ssm_ratio {ssm_ratio} leaves no channel of {embed_dims}')
        if whole('conv_size', conv_size) % 2 == 0:
            raise ValueError(f'conv_size must be odd, so that the convolution keeps the grid, got {conv_size}')
        self.gated = flag('gated', gated)
        self.in_proj = nn.Linear(embed_dims, d_inner * (1 + self.gated), bias=False)
        conv_bias = flag('conv_bias', conv_bias)
        if conv_size > 1:
            side = int(conv_size)
            self.conv2d = nn.Conv2d(d_inner, d_inner, side, padding=side // 2, groups=d_inner, bias=conv_bias)
        self.x_proj_weight = nn.Parameter(torch.empty(4, self.dt_rank + 2 * self.d_state, d_inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(4, d_inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(4, d_inner))
        a_log = torch.log(torch.arange(1, self.d_state + 1, dtype=torch.float32))
        self.A_logs = nn.Parameter(a_log.repeat(4 * d_inner, 1))
        self.Ds = nn.Parameter(torch.ones(4 * d_inner))
        self.out_norm = nn.LayerNorm(d_inner, eps=1e-5)
        self.out_proj = nn.Linear(d_inner, embed_dims, bias=False)
        nn.init.uniform_(self.x_proj_weight, -(d_inner**-0.5), d_inner**-0.5)
        start_step_sizes(self.dt_projs_weight, self.dt_projs_bias)

    def forward(self, x: Tensor, tokens: TokenState) -> tuple[Tensor, LayerTrace]:
        """Mix tokens (B, K, C); returns (B, K, C) and what importance is read from."""
        x, z = self.in_proj(x).chunk(2, dim=-1) if self.gated else (self.in_proj(x), None)
        if hasattr(self, 'conv2d'):
            x = conv_over_grid(x, self.conv2d, tokens)
        u = F.silu(x)
        trace = self.scan(u, *self.parameters_of(u), tokens)
        y = self.out_norm(trace.y)
        return self.out_proj(y if z is None else y * F.silu(z)), trace

    def parameters_of(self, u: Tensor) -> tuple[RawDelta, Tensor, Tensor]:
        """Step sizes, B and C (4, B, K, d_state) of tokens u (B, K, d_inner), of every direction."""
        dt, B, C = (
            F.linear(u, self.x_proj_weight.flatten(0, 1))
            .unflatten(-1, (4, -1))
            .split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        )
        rows = dt.permute(2, 0, 1, 3).flatten(1, 2)  # (4, B K, R)
        raw = torch.bmm(rows, self.dt_projs_weight.transpose(1, 2)).unflatten(1, u.shape[:2])
        return RawDelta(raw, self.dt_projs_bias, self.dt_projs_bias), B.permute(2, 0, 1, 3), C.permute(2, 0, 1, 3)

    def scan(self, u: Tensor, delta: RawDelta, B: Tensor, C: Tensor, tokens: TokenState) -> LayerTrace:
        """Scan u (B, K, d_inner) along the four directions, which are summed, not averaged."""
        A, D = -torch.exp(self.A_logs).unflatten(0, (4, -1)), self.Ds.unflatten(0, (4, -1))
        return scan_over_tokens(u.unsqueeze(0), delta, A, B, C, D, None, tokens)


class Mlp(nn.Module):
    """fc1, exact GELU, fc2."""

    def __init__(self, embed_dims: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden)
        self.fc2 = nn.Linear(hidden, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class VSSBlock(nn.Module):
    """x + SS2D(LN(x)), then x + MLP(LN(x)).

    Args:
        embed_dims: channels C.
        mixer_cfg: further arguments of `SS2D`.
        mlp_ratio: the MLP's width as a share of C; 0 means no MLP (the first release).
        drop_path_rate: rate of stochastic depth, of both branches.
    """

    def __init__(self, embed_dims: int, mixer_cfg: dict, mlp_ratio: float = 4.0, drop_path_rate: float = 0.0):
        super().__init__()
        if not is_number(mlp_ratio) or mlp_ratio < 0:
            raise ValueError(f'mlp_ratio must be a number from 0 on, got {mlp_ratio!r}')
        self.norm = nn.LayerNorm(embed_dims, eps=1e-5)
        self.op = SS2D(embed_dims, **mixer_cfg)
        self.drop_path = DropPath(drop_path_rate)
        self.has_mlp = mlp_ratio > 0
        if self.has_mlp:
            self.norm2 = nn.LayerNorm(embed_dims, eps=1e-5)
            self.mlp = Mlp(embed_dims, int(embed_dims * mlp_ratio))

    def forward(self, x: Tensor, tokens: TokenState) -> tuple[Tensor, LayerTrace]:
        """Return the tokens (B, K, C) and what importance is read from."""
        mixed, trace = self.op(self.norm(x), tokens)
        x = x + self.drop_path(mixed)
        if self.has_mlp:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x, trace
