"""Whole mixers over kept tokens against the same mixer over all cells, pruned inputs masked and delta put in place.

The masked scan below is written anew, cell by cell along the dense path, from the mixer's own weights.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from scan_operands import assert_same

from mmssmprune.models.layers.plain_mamba_layer import PlainMambaMixer
from mmssmprune.models.layers.vim_block import VimMixer
from mmssmprune.models.layers.vss_block import SS2D
from mmssmprune.pruning import (
    ALIGNMENT,
    KeptTokens,
    TokenState,
    conv_over_grid,
    gather_rows,
    line_scan,
    sequence_scan,
    snake_scan,
)
from mmssmprune.pruning.conv_fill import causal_conv_over_sequence

ALIGNMENTS = ['none', 'carry', 'bias']


FILLS = ['zero', 'leader']


def keep(rows: list[list[int]], path, hw: tuple[int, int], alignment: str, fill: str = 'zero') -> TokenState:
    """Some cells alive; with the fill 'leader' each pruned cell has one, and inputs count several times."""
    kept = KeptTokens(torch.tensor(rows), path.order.shape[1])
    tokens = TokenState.dense(path, hw, alignment=ALIGNMENT[alignment]).keeping(kept)
    if fill != 'leader':
        return tokens
    leader = torch.randint(len(rows[0]), (len(rows), kept.length))
    leader = leader.scatter(1, kept.index, torch.arange(len(rows[0])).expand(kept.index.shape))
    weight = 1 + 3 * torch.rand(kept.index.shape).double()
    return replace(tokens, leader=leader, input_weight=weight, shows_leaders=True)


def name_of(tokens: TokenState) -> str:
    return next(name for name, made in ALIGNMENT.items() if tokens.alignment is made)


def fixed_delta(tokens: TokenState, raw_at_zero: torch.Tensor) -> torch.Tensor | None:
    """The delta (D,) of every pruned cell, or None where it depends on the kept ones."""
    return F.softplus(raw_at_zero) if name_of(tokens) == 'bias' else None


def masked_scan(u, delta, A, B, C, weight, D, order, kept_cells, alignment, delta_of_pruned):
    """One image, one direction: u, delta (L, D), B, C (L, N), weight (L, 1) of the inputs, by cell.

    Returns y (L, D) by cell, zero where pruned.
    """
    state = torch.zeros_like(A)
    last = None
    y = [torch.zeros(len(D), dtype=u.dtype)] * len(order)
    for cell in order:
        if cell in kept_cells:
            state = (
                torch.exp(delta[cell][:, None] * A) * state + (delta[cell] * weight[cell] * u[cell])[:, None] * B[cell]
            )
            y[cell] = (state * C[cell]).sum(-1) + D * u[cell]
            last = delta[cell]
        elif delta_of_pruned is not None:
            state = torch.exp(delta_of_pruned[:, None] * A) * state
        elif alignment == 'carry' and last is not None:
            state = torch.exp(last[:, None] * A) * state
    return torch.stack(y)


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double()


def compare(module, x, tokens, compact, full) -> None:
    weight = torch.randn_like(compact)
    leaves = {'x': x, **dict(module.named_parameters())}
    grads = [torch.autograd.grad((out * weight).sum(), list(leaves.values())) for out in (compact, full)]
    assert_same({'out': compact}, {'out': full}, rtol=1e-11)
    assert_same(*(dict(zip(leaves, g, strict=True)) for g in grads), rtol=1e-10)


PATTERNS = {'random': [[1, 4, 5, 11, 13], [0, 2, 3, 9, 14]], 'all': [list(range(15))] * 2, 'one': [[0], [14]]}


@pytest.mark.parametrize('fill', FILLS)
@pytest.mark.parametrize('alignment', ALIGNMENTS)
@pytest.mark.parametrize('pattern', PATTERNS)
def test_plain_mamba_mixer_equals_masked_scan(alignment, pattern, fill):
    hw, rows = (5, 3), PATTERNS[pattern]
    mixer = randomise(PlainMambaMixer(8, d_state=3, conv_size=3, param_order='scan'))
    path = snake_scan(*hw)
    tokens = keep(rows, path, hw, alignment, fill)
    x = torch.randn(2, len(rows[0]), 8, dtype=torch.float64, requires_grad=True)
    compact, _ = mixer(x, tokens)
    compare(mixer, x, tokens, compact, plain_mamba_by_cells(mixer, x, tokens, hw, alignment))


def by_whole_grid(convolve, inner, tokens):
    """``convolve(x, tokens)`` at the tokens; where leaders are shown, all cells are given, as in the dense model."""
    if not tokens.shows_leaders:
        return convolve(inner, tokens)
    every = TokenState.dense(tokens.dense_order, tokens.hw_shape)
    return tokens.kept.gather(convolve(gather_rows(inner, tokens.leader), every))


def by_cell(tokens, *of_tokens):
    """(B, K, ...) each -> (B, L, ...), the weights of the inputs behind them."""
    weight = torch.ones(tokens.kept.index.shape) if tokens.input_weight is None else tokens.input_weight
    return [tokens.kept.scatter(t) for t in (*of_tokens, weight.double().unsqueeze(-1))]


def plain_mamba_by_cells(mixer, x, tokens, hw, alignment):
    inner, z = mixer.in_proj(x).chunk(2, -1)
    u = F.silu(by_whole_grid(lambda x, tokens: conv_over_grid(x, mixer.conv2d, tokens), inner, tokens))
    dt, B, C = mixer.x_proj(u).split([mixer.dt_rank, mixer.d_state, mixer.d_state], -1)
    delta = F.softplus(mixer.dt_proj(dt) + mixer.dt_proj.bias)
    at_zero = fixed_delta(tokens, 2 * mixer.dt_proj.bias)
    spread = by_cell(tokens, u, delta, B, C)
    total = 0
    for order, step in zip(tokens.dense_order.order.tolist(), tokens.dense_order.step, strict=True):
        direction = tokens.dense_order.order.tolist().index(order)
        move_B = mixer.direction_Bs[tokens.dense_order.move[direction, step]]  # by cell
        rows = []
        for b, cells in enumerate(tokens.kept.index.tolist()):
            u_b, delta_b, B_b, C_b, w_b = (t[b] for t in spread)
            operands = (u_b, delta_b, -torch.exp(mixer.A_log), B_b + move_B, C_b, w_b, mixer.D)
            rows.append(masked_scan(*operands, order, set(cells), alignment, at_zero))
        total = total + tokens.kept.gather(torch.stack(rows))
    return mixer.out_proj(total * F.silu(z))


@pytest.mark.parametrize('fill', FILLS)
@pytest.mark.parametrize('alignment', ALIGNMENTS)
@pytest.mark.parametrize('pattern', PATTERNS)
def test_vim_mixer_equals_masked_scan(alignment, pattern, fill):
    rows = PATTERNS[pattern]
    mixer = randomise(VimMixer(8, d_state=3))
    tokens = keep(rows, sequence_scan(15), (1, 15), alignment, fill)
    x = torch.randn(2, len(rows[0]), 8, dtype=torch.float64, requires_grad=True)
    compact, _ = mixer(x, tokens)
    inner, z = mixer.in_proj(x).chunk(2, -1)
    total = 0
    for direction, s in enumerate(('', '_b')):
        part = {k: getattr(mixer, f'{k}{s}') for k in ('conv1d', 'x_proj', 'dt_proj', 'D')}
        conv = partial(causal_conv_over_sequence, conv=part['conv1d'], backward=bool(direction))
        u = F.silu(by_whole_grid(lambda x, tokens, conv=conv: conv(x, tokens=tokens), inner, tokens))
        dt, B, C = part['x_proj'](u).split([mixer.dt_rank, 3, 3], -1)
        delta = F.softplus(part['dt_proj'](dt))
        A = -torch.exp(mixer.A_b_log if direction else mixer.A_log)
        spread = by_cell(tokens, u, delta, B, C)
        at_zero = fixed_delta(tokens, part['dt_proj'].bias)
        scans = [
            masked_scan(
                u_b,
                d_b,
                A,
                B_b,
                C_b,
                w_b,
                part['D'],
                tokens.dense_order.order[direction].tolist(),
                set(cells),
                alignment,
                at_zero,
            )
            for u_b, d_b, B_b, C_b, w_b, cells in zip(*spread, tokens.kept.index.tolist(), strict=True)
        ]
        total = total + tokens.kept.gather(torch.stack(scans))
    compare(mixer, x, tokens, compact, mixer.out_proj(total * F.silu(z) / 2))


@pytest.mark.parametrize('fill', FILLS)
@pytest.mark.parametrize('alignment', ALIGNMENTS)
@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize('gated', [False, True])
def test_ss2d_equals_masked_scan(gated, alignment, pattern, fill):
    hw, rows = (5, 3), PATTERNS[pattern]
    mixer = randomise(SS2D(8, d_state=3 if gated else 1, gated=gated))
    tokens = keep(rows, line_scan(*hw), hw, alignment, fill)
    x = torch.randn(2, len(rows[0]), 8, dtype=torch.float64, requires_grad=True)
    compact, _ = mixer(x, tokens)
    inner, *z = mixer.in_proj(x).split(mixer.d_inner, -1)
    u = F.silu(by_whole_grid(lambda x, tokens: conv_over_grid(x, mixer.conv2d, tokens), inner, tokens))
    total = 0
    for r, order in enumerate(tokens.dense_order.order.tolist()):
        own = slice(16 * r, 16 * (r + 1))
        dt, B, C = F.linear(u, mixer.x_proj_weight[r]).split([mixer.dt_rank, mixer.d_state, mixer.d_state], -1)
        delta = F.softplus(F.linear(dt, mixer.dt_projs_weight[r]) + mixer.dt_projs_bias[r])
        spread = by_cell(tokens, u, delta, B, C)
        at_zero, A, D = fixed_delta(tokens, mixer.dt_projs_bias[r]), -torch.exp(mixer.A_logs[own]), mixer.Ds[own]
        scans = [
            masked_scan(u_b, d_b, A, B_b, C_b, w_b, D, order, set(cells), alignment, at_zero)
            for u_b, d_b, B_b, C_b, w_b, cells in zip(*spread, tokens.kept.index.tolist(), strict=True)
        ]
        total = total + tokens.kept.gather(torch.stack(scans))
    y = mixer.out_norm(total)
    compare(mixer, x, tokens, compact, mixer.out_proj(y * F.silu(z[0]) if gated else y))


@pytest.mark.parametrize('param_order', ['raster', 'scan'])
def test_all_cells_kept_equals_dense(param_order):
    hw = (5, 3)
    mixer = randomise(PlainMambaMixer(8, d_state=3, conv_size=3, param_order=param_order))
    path = snake_scan(*hw)
    x = torch.randn(2, 15, 8, dtype=torch.float64)
    dense, _ = mixer(x, TokenState.dense(path, hw))
    for alignment in ALIGNMENTS:
        compact, _ = mixer(x, keep([list(range(15))] * 2, path, hw, alignment))
        assert torch.allclose(compact, dense, rtol=1e-12, atol=1e-12)


def test_alignment_changes_what_a_gap_means():
    mixer = randomise(VimMixer(8, d_state=3))
    x = torch.randn(1, 3, 8, dtype=torch.float64)
    outs = [mixer(x, keep([[0, 6, 14]], sequence_scan(15), (1, 15), name))[0] for name in ALIGNMENTS]
    assert all(not torch.allclose(a, b) for a, b in combinations(outs, 2))
