"""The mixers against the same thing step by step: every direction permuted, scanned alone, brought home, summed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scan_operands import assert_same, grads_of
from torch import Tensor

from mmssmprune.models.layers.plain_mamba_layer import PlainMambaMixer
from mmssmprune.models.layers.vim_block import VimMixer
from mmssmprune.models.layers.vss_block import SS2D
from mmssmprune.ops import aligned_selective_scan, selective_scan
from mmssmprune.pruning import KeptTokens, TokenState, causal_conv_over_sequence, conv_over_grid
from mmssmprune.pruning.alignment import ALIGNMENT
from mmssmprune.pruning.scan_order import ScanOrder, line_scan, sequence_scan, snake_scan


def visit(x: Tensor, order: Tensor) -> Tensor:
    """(B, K, C) in the order (B, K) -> (B, C, K)."""
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1])).transpose(1, 2)


def bring_home(y: Tensor, order: Tensor) -> Tensor:
    """(B, C, K) in scan order -> (B, K, C)."""
    return visit(y.transpose(1, 2), order.argsort(-1)).transpose(1, 2)


def scan_once(u, raw, bias, at_zero, A, B, C, D, gap, alignment) -> Tensor:
    """One direction over (B, D, K), in scan order, by the naive loop."""
    if gap is None or alignment == 'none':
        return selective_scan(u, raw, A, B, C, D, None, bias, True, backend='naive')
    delta = F.softplus(raw + bias[:, None])
    carried = F.pad(delta[:, :, :-1], (1, 0))
    size = {'carry': carried, 'bias': F.softplus(at_zero)}[alignment]
    return aligned_selective_scan(u, delta, A, B, C, D, gap=gap, delta_gap=size, backend='naive')


def plain_mamba(mixer: PlainMambaMixer, x: Tensor, tokens: TokenState) -> Tensor:
    x, z = mixer.in_proj(x).chunk(2, dim=-1)
    u = F.silu(conv_over_grid(x, mixer.conv2d, tokens))
    dt, B, C = mixer.x_proj(u).split([mixer.dt_rank, mixer.d_state, mixer.d_state], -1)
    delta, bias = mixer.dt_proj(dt), mixer.dt_proj.bias
    walk = tokens.scan_order
    total = 0
    for r in range(4):
        order, move = (t.expand(len(x), 4, -1)[:, r] for t in (walk.order, walk.move))
        raster = torch.arange(order.shape[1]).expand_as(order)
        of_params = order if mixer.param_order == 'scan' else raster
        B_r = visit(B, of_params) + mixer.direction_Bs[move].transpose(1, 2)
        gap = None if walk.gap is None else walk.gap[:, r]
        operands = (visit(u, order), visit(delta, of_params), bias, 2 * bias, -torch.exp(mixer.A_log), B_r)
        y = scan_once(*operands, visit(C, of_params), mixer.D, gap, name_of(tokens))
        total = total + bring_home(y, order)
    return mixer.out_proj(total * F.silu(z))


def vim(mixer: VimMixer, x: Tensor, tokens: TokenState) -> Tensor:
    x, z = mixer.in_proj(x).chunk(2, dim=-1)
    total = 0
    for r, suffix in enumerate(('', '_b')):
        conv, x_proj, dt_proj, D = (getattr(mixer, f'{name}{suffix}') for name in ('conv1d', 'x_proj', 'dt_proj', 'D'))
        A = -torch.exp(mixer.A_b_log if r else mixer.A_log)
        u = F.silu(causal_conv_over_sequence(x, conv, bool(r), tokens))
        dt, B, C = x_proj(u).split([mixer.dt_rank, mixer.d_state, mixer.d_state], -1)
        delta, bias = F.linear(dt, dt_proj.weight), dt_proj.bias
        order = torch.arange(x.shape[1]).expand(len(x), -1)
        order = order.flip(1) if r else order
        gap = None if tokens.scan_order.gap is None else tokens.scan_order.gap[:, r]
        u, delta, B, C = (visit(t, order) for t in (u, delta, B, C))
        total = total + bring_home(scan_once(u, delta, bias, bias, A, B, C, D, gap, name_of(tokens)), order)
    return mixer.out_proj(total * F.silu(z) / 2)


def ss2d(mixer: SS2D, x: Tensor, tokens: TokenState) -> Tensor:
    x, z = mixer.in_proj(x).chunk(2, dim=-1) if mixer.gated else (mixer.in_proj(x), None)
    u = F.silu(conv_over_grid(x, mixer.conv2d, tokens))
    total = 0
    for r in range(4):
        own = slice(r * mixer.d_inner, (r + 1) * mixer.d_inner)
        order = tokens.scan_order.order.expand(len(x), 4, -1)[:, r]
        gap = None if tokens.scan_order.gap is None else tokens.scan_order.gap[:, r]
        dt, B, C = F.linear(u, mixer.x_proj_weight[r]).split([mixer.dt_rank, mixer.d_state, mixer.d_state], -1)
        delta, bias = F.linear(dt, mixer.dt_projs_weight[r]), mixer.dt_projs_bias[r]
        at_step = [visit(t, order) for t in (u, delta, B, C)]
        A, D = -torch.exp(mixer.A_logs[own]), mixer.Ds[own]
        y = scan_once(*at_step[:2], bias, bias, A, *at_step[2:], D, gap, name_of(tokens))
        total = total + bring_home(y, order)
    y = mixer.out_norm(total)
    return mixer.out_proj(y if z is None else y * F.silu(z))


def name_of(tokens: TokenState) -> str:
    return next(name for name, made in ALIGNMENT.items() if tokens.alignment is made)


def tokens_over(path: ScanOrder, kept: int | None, alignment: str) -> TokenState:
    """All cells of a 3 x 5 grid, or ``kept`` random ones of each of two images."""
    made = ALIGNMENT[alignment]
    if kept is None:
        return TokenState.dense(path, (3, 5), alignment=made)
    index = torch.stack([torch.randperm(15)[:kept].sort().values for _ in range(2)])
    chosen = KeptTokens(index, 15)
    return TokenState.dense(path, (3, 5), alignment=made).keeping(chosen)


def assert_same_mixing(mixer, step_by_step, tokens) -> None:
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, tokens.scan_order.order.shape[-1], 6, dtype=torch.float64, requires_grad=True)
    leaves = {'x': x, **dict(mixer.named_parameters())}
    outs = mixer(x, tokens)[0], step_by_step(mixer, x, tokens)
    trace = mixer(x, replace(tokens, wants_directions=True))[1]
    assert len(trace.directions) == tokens.scan_order.order.shape[-2]
    assert_same({'y': sum(trace.directions)}, {'y': mixer(x, tokens)[1].y})
    weight = torch.randn_like(x)
    assert_same({'out': outs[0]}, {'out': outs[1]})
    assert_same(*(grads_of(out, leaves, weight) for out in outs), rtol=1e-11)


@pytest.mark.parametrize('kept', [None, 8])
@pytest.mark.parametrize('alignment', ALIGNMENT)
@pytest.mark.parametrize('param_order', ['raster', 'scan'])
def test_plain_mamba_mixer_step_by_step(param_order, alignment, kept):
    mixer = PlainMambaMixer(6, d_state=3, conv_size=3, param_order=param_order).double()
    assert_same_mixing(mixer, plain_mamba, tokens_over(snake_scan(3, 5), kept, alignment))


@pytest.mark.parametrize('kept', [None, 8])
@pytest.mark.parametrize('alignment', ALIGNMENT)
def test_vim_mixer_step_by_step(alignment, kept):
    assert_same_mixing(VimMixer(6, d_state=3).double(), vim, tokens_over(sequence_scan(15), kept, alignment))


@pytest.mark.parametrize('kept', [None, 8])
@pytest.mark.parametrize('alignment', ALIGNMENT)
@pytest.mark.parametrize('settings', [dict(), dict(d_state=3, gated=True, conv_bias=True)], ids=['one state', 'gated'])
def test_ss2d_step_by_step(settings, alignment, kept):
    mixer = SS2D(6, ssm_ratio=2.0, **settings).double()
    assert_same_mixing(mixer, ss2d, tokens_over(line_scan(3, 5), kept, alignment))
