"""One `multi_scan` does what the layers do with permutations, single scans, their sum and the gate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scan_operands import assert_same, grads_of

from mmssmprune.models.layers.plain_mamba_layer import PlainMambaMixer
from mmssmprune.models.layers.vim_block import VimMixer
from mmssmprune.ops import multi_scan
from mmssmprune.pruning import conv_over_grid
from mmssmprune.pruning.alignment import ALIGNMENT
from mmssmprune.pruning.conv_fill import causal_conv_over_sequence
from mmssmprune.pruning.kept_tokens import KeptTokens
from mmssmprune.pruning.scan_path import ScanPath, sequence_path, snake_path
from mmssmprune.pruning.token_state import TokenState


def gap_size(alignment: str, at_zero: torch.Tensor, stored: torch.Tensor) -> torch.Tensor | None:
    """What `multi_scan` takes as delta_gap for an alignment."""
    if alignment == 'carry':
        return None
    if alignment == 'calibrated':
        return torch.where(stored > 0, stored, -1.0)
    return F.softplus(at_zero if alignment == 'bias' else at_zero + stored)


def tokens_over(path: ScanPath, hw_shape: tuple[int, int], kept: int | None, alignment: str, stored) -> TokenState:
    if kept is None:
        return TokenState.dense(path, hw_shape, alignment=alignment)
    cells = path.order.shape[1]
    index = torch.stack([torch.randperm(cells)[:kept].sort().values for _ in range(2)])
    chosen = KeptTokens(index, cells)
    return TokenState(path, path.over(chosen), hw_shape, chosen, alignment=alignment, stored_delta=stored)


def random_parameters(mixer: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def assert_same_mixing(mixer, by_multi_scan, tokens) -> None:
    x = torch.randn(2, tokens.walk.order.shape[-1], 6, dtype=torch.float64, requires_grad=True)
    leaves = {'x': x, **dict(mixer.named_parameters())}
    outs = mixer(x, tokens)[0], by_multi_scan(mixer, x, tokens)
    weight = torch.randn_like(x)
    assert_same({'out': outs[1]}, {'out': outs[0]})
    assert_same(*(grads_of(out, leaves, weight) for out in reversed(outs)), rtol=1e-11)


def plain_mamba(mixer: PlainMambaMixer, x: torch.Tensor, tokens: TokenState) -> torch.Tensor:
    x, z = mixer.in_proj(x).chunk(2, dim=-1)
    u = F.silu(conv_over_grid(x, mixer.conv2d, tokens, None))
    delta, B, C = mixer.parameters_of(u)
    raw = mixer._raw_delta(delta)
    walk = tokens.walk
    pruned = {}
    if walk.gap is not None and tokens.alignment != 'none':
        size = gap_size(tokens.alignment, raw.at_zero, tokens.stored_delta[0])
        pruned = {'gap': walk.gap, 'delta_gap': size}
    y = multi_scan(
        u, delta, -torch.exp(mixer.A_log), B, C, mixer.D, z, raw.bias, direction_B=mixer.direction_Bs, order=walk.order,
        move=walk.move, param_order=mixer.param_order, backend='naive', **pruned,
    )  # fmt: skip
    return mixer.out_proj(y)


def vim(mixer: VimMixer, x: torch.Tensor, tokens: TokenState) -> torch.Tensor:
    x, z = mixer.in_proj(x).chunk(2, dim=-1)
    branches = []
    for direction, suffix in enumerate(('', '_b')):
        u = F.silu(causal_conv_over_sequence(x, getattr(mixer, f'conv1d{suffix}'), bool(direction), tokens, None))
        sizes = [mixer.dt_rank, mixer.d_state, mixer.d_state]
        dt, B, C = getattr(mixer, f'x_proj{suffix}')(u).split(sizes, dim=-1)
        A = -torch.exp(mixer.A_b_log if direction else mixer.A_log)
        dt_proj, D = getattr(mixer, f'dt_proj{suffix}'), getattr(mixer, f'D{suffix}')
        size = gap_size(tokens.alignment, dt_proj.bias, tokens.stored_delta[direction]) if tokens.kept else None
        branches.append((u, F.linear(dt, dt_proj.weight), A, B, C, D, dt_proj.bias, size))
    u, delta, A, B, C, D, bias, size = (None if t[0] is None else torch.stack(t) for t in zip(*branches, strict=True))
    gap = tokens.walk.gap if tokens.alignment != 'none' else None
    y = multi_scan(u, delta, A, B, C, D, z, bias, gap=gap, delta_gap=None if gap is None else size, backend='naive')
    return mixer.out_proj(y / 2)


@pytest.mark.parametrize('kept', [None, 8])
@pytest.mark.parametrize('alignment', ALIGNMENT)
@pytest.mark.parametrize('param_order', ['raster', 'scan'])
def test_is_what_plain_mamba_scans(param_order, alignment, kept):
    mixer = PlainMambaMixer(6, d_state=3, conv_size=3, param_order=param_order).double()
    random_parameters(mixer)
    stored = torch.where(torch.arange(12) % 3 == 0, 0.0, 0.7).double()[None]
    assert_same_mixing(mixer, plain_mamba, tokens_over(snake_path(3, 5), (3, 5), kept, alignment, stored))


@pytest.mark.parametrize('kept', [None, 8])
@pytest.mark.parametrize('alignment', ALIGNMENT)
def test_is_what_vim_scans(alignment, kept):
    mixer = VimMixer(6, d_state=3).double()
    random_parameters(mixer)
    stored = torch.rand(2, 12).double() * (torch.arange(12) % 3 > 0)
    assert_same_mixing(mixer, vim, tokens_over(sequence_path(15), (3, 5), kept, alignment, stored))
