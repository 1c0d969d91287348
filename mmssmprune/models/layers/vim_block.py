"""One Vim block (arXiv 2401.09417, mixer "v2"), with the behaviours that the released checkpoints depend on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssmprune._values import flag, whole
from mmssmprune.models.layers.drop_path import DropPath
from mmssmprune.models.layers.projection import mixer_sizes, start_step_sizes
from mmssmprune.pruning import LayerTrace, RawDelta, TokenState, causal_conv_over_sequence, scan_over_tokens


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, computed in float32 or wider."""

    def __init__(self, dims: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C) in the dtype of ``x``."""
        wide = x if x.dtype == torch.float64 else x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


class VimMixer(nn.Module):
    """Bidirectional selective scan; the branches share in_proj and out_proj and have the rest to themselves.

    Args:
        embed_dims: channels C of the tokens.
        d_state: size N of the state per channel.
        expand: d_inner = expand * embed_dims (Vim: 2, of which half is the gate).
        d_conv: width of the causal convolutions.
        dt_rank: rank of the step-size projections; ``'auto'`` means ceil(embed_dims / 16).
        bias: biases of in_proj and out_proj.
        conv_bias: biases of the convolutions.
        if_divide_out: halve the sum of the two branches, as every released model does.
    """

    def __init__(
        self,
        embed_dims: int,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        dt_rank: int | str = 'auto',
        bias: bool = False,
        conv_bias: bool = True,
        if_divide_out: bool = True,
    ):
        super().__init__()
        d_inner, self.dt_rank, d_state = mixer_sizes(embed_dims, d_state, expand, dt_rank)
        d_conv, bias, conv_bias = whole('d_conv', d_conv), flag('bias', bias), flag('conv_bias', conv_bias)
        self.d_inner = d_inner
        self.d_state = d_state
        self.if_divide_out = flag('if_divide_out', if_divide_out)
        self.in_proj = nn.Linear(embed_dims, 2 * d_inner, bias=bias)
        for suffix in ('', '_b'):
            conv = nn.Conv1d(d_inner, d_inner, d_conv, padding=d_conv - 1, groups=d_inner, bias=conv_bias)
            self.add_module(f'conv1d{suffix}', conv)
            self.add_module(f'x_proj{suffix}', nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False))
            self.add_module(f'dt_proj{suffix}', nn.Linear(self.dt_rank, d_inner))
            a_log = torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(d_inner, 1)
            self.register_parameter('A_b_log' if suffix else 'A_log', nn.Parameter(a_log))
            self.register_parameter(f'D{suffix}', nn.Parameter(torch.ones(d_inner)))
        self.out_proj = nn.Linear(d_inner, embed_dims, bias=bias)

    def initialise(self, depth: int) -> None:
        """Start as the official class does: normal of 0.02, Mamba's step sizes, out_proj scaled down by the depth."""
        for linear in (self.in_proj, self.x_proj, self.x_proj_b):
            nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight.data /= math.sqrt(depth)
        for linear in (self.in_proj, self.out_proj):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        for dt_proj in (self.dt_proj, self.dt_proj_b):
            start_step_sizes(dt_proj.weight, dt_proj.bias)

    def forward(self, x: Tensor, tokens: TokenState) -> tuple[Tensor, LayerTrace]:
        """Mix tokens (B, K, C); returns (B, K, C) and what importance is read from, both in sequence order."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        branches = [self.branch(x, tokens, direction) for direction in (0, 1)]
        trace = self.scan(*zip(*branches, strict=True), z, tokens)
        if self.if_divide_out:
            trace = replace(trace, y=trace.y / 2, directions=tuple(y / 2 for y in trace.directions))
        return self.out_proj(trace.y), trace

    def branch(self, x: Tensor, tokens: TokenState, direction: int) -> tuple[Tensor, RawDelta, Tensor, Tensor]:
        """What the scan forward (0) or backward (1) reads of tokens (B, K, d_inner): u, its step sizes, B and C."""
        suffix = ('', '_b')[direction]
        dt_proj = getattr(self, f'dt_proj{suffix}')
        u = F.silu(causal_conv_over_sequence(x, getattr(self, f'conv1d{suffix}'), bool(direction), tokens))
        dt, B, C = getattr(self, f'x_proj{suffix}')(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        # Only the weight here: unlike in PlainMamba the bias is added once.
        return u, RawDelta(F.linear(dt, dt_proj.weight), dt_proj.bias, dt_proj.bias), B, C

    def scan(
        self,
        u: Sequence[Tensor],
        raw_delta: Sequence[RawDelta],
        B: Sequence[Tensor],
        C: Sequence[Tensor],
        z: Tensor,
        tokens: TokenState,
    ) -> LayerTrace:
        """Scan forward and backward, each with its own u (B, K, d_inner) and parameters; summed, then gated by z.

        Kept tokens are in sequence order, so the walk is the sequence itself whatever was pruned.
        """
        A, D = -torch.exp(torch.stack([self.A_log, self.A_b_log])), torch.stack([self.D, self.D_b])
        return scan_over_tokens(
            torch.stack(u), RawDelta.stack(raw_delta), A, torch.stack(B), torch.stack(C), D, z, tokens
        )


class VimBlock(nn.Module):
    """Add, RMSNorm, mixer; the block returns its mixer's output and the residual stream beside it.

    Args:
        embed_dims: channels C.
        mixer_cfg: further arguments of ``mixer_class``.
        drop_path_rate: rate of stochastic depth on the *incoming* hidden state, as in the official model.
        mixer_class: called as ``mixer_class(embed_dims, **mixer_cfg)``; its objects are called as `VimMixer` is, and
            have its attributes ``d_inner`` and its `initialise`.
    """

    def __init__(
        self,
        embed_dims: int,
        mixer_cfg: dict,
        drop_path_rate: float = 0.0,
        mixer_class: Callable[..., nn.Module] = VimMixer,
    ):
        super().__init__()
        self.mixer = mixer_class(embed_dims, **mixer_cfg)
        self.norm = RMSNorm(embed_dims)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden: Tensor, residual: Tensor | None, tokens: TokenState) -> tuple[Tensor, Tensor, LayerTrace]:
        """Return (mixer output, residual) (B, K, C) and what importance is read from.

        ``residual`` is None before the first block, whose residual is the embedding itself, untouched by drop path.
        """
        residual = hidden if residual is None else residual + self.drop_path(hidden)
        if residual.dtype in (torch.float16, torch.bfloat16):
            residual = residual.float()  # the stream sums up all layers; half precision loses the small ones
        hidden, trace = self.mixer(self.norm(residual).to(self.norm.weight.dtype), tokens)
        return hidden, residual, trace
