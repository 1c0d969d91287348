"""Walks unfolded into single scans and folded back: the reference with `naive`, and how backends without walks walk."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..derivatives import gradients, without_autocast
from . import naive
from .inputs import ScanInputs, Sequences

Scan = Callable[[Sequences], Tensor]


def scan(p: ScanInputs, scan_one: Scan) -> Tensor:
    """Permute, scan, bring home, sum over the directions, gate: (B, K, D). Differentiable if ``scan_one`` is."""
    wide = p.wide()
    total = sum_at_home(wide, [scan_one(one) for one in unfold(wide)])
    return (total if p.z is None else total * F.silu(wide.z)).to(p.u.dtype)


def backward(p: ScanInputs, scan_one: Scan, grad_out: Tensor) -> list[Tensor | None]:
    """The gradients of `scan`, which can be differentiated again where gradients are enabled."""

    def again(*tensors: Tensor | None) -> list[Tensor]:
        with without_autocast(p.u.device):
            return [scan(p.with_tensors(list(tensors)), scan_one)]

    return gradients(again, p.tensors, [grad_out])


def plain_scan(p: ScanInputs) -> Tensor:
    """The naive scan in torch's own operations, which it can differentiate in every mode and to every order."""
    with without_autocast(p.u.device):
        return scan(p, naive.scan)


def plain_backward(p: ScanInputs, grad_out: Tensor) -> list[Tensor | None]:
    """The gradients of `plain_scan`."""
    return backward(p, naive.scan, grad_out)


def unfold(p: ScanInputs) -> list[Sequences]:
    """One scan per set of parameters; a set that serves all directions has them side by side in the batch."""
    order, move = p.walk()
    scans = []
    for s in range(p.sets):
        mine, walk = _directions_of(p, s, order)
        u = _visit(p.u[s if len(p.u) > 1 else 0], walk)  # [B, R, K, D]
        delta, B, C = (_along(x[s], walk, p) for x in (p.delta, p.B, p.C))
        if p.direction_B is not None:
            B = B + p.direction_B[move[:, mine]]
        bias, time, softplus = None if p.delta_bias is None else p.delta_bias[s], None, p.delta_softplus
        if p.gap_time is not None:
            time = p.gap_time[mine].transpose(0, 1)
        if p.gap is not None:
            delta = delta if bias is None else delta + bias
            delta = F.softplus(delta) if softplus else delta
            carried = F.pad(delta[:, :, :-1], (0, 0, 1, 0))
            passed = carried if p.delta_gap is None else torch.where(p.delta_gap[s] < 0, carried, p.delta_gap[s])
            passed = p.gap[:, mine, :, None] * passed
            time = passed if time is None else time + passed
            bias, softplus = None, False
        tokens = [None if x is None else x.flatten(0, 1).transpose(1, 2) for x in (u, delta, B, C, time)]
        u, delta, B, C, time = tokens  # [B*R, C, K]
        scans.append(Sequences(u, delta, p.A[s], B, C, None if p.D is None else p.D[s], bias, time, softplus))
    return scans


def sum_at_home(p: ScanInputs, scanned: list[Tensor]) -> Tensor:
    """What `unfold`'s scans return, (B*R, D, K) each -> (B, K, D), the sum over the directions at each token."""
    y = torch.cat([_of_directions(y, p) for y in scanned], 1)
    return _bring_home(y, p.walk()[0]).sum(1)


def visit_again(p: ScanInputs, grad_out: Tensor) -> list[Tensor]:
    """The adjoint of `sum_at_home`: (B, K, D) -> (B*R, D, K) for each of the scans."""
    order, _ = p.walk()
    walks = (_directions_of(p, s, order)[1] for s in range(p.sets))
    return [_visit(grad_out, walk).flatten(0, 1).transpose(1, 2) for walk in walks]


def fold(p: ScanInputs, found: list[Sequences]) -> list[Tensor | None]:
    """The adjoint of `unfold`: gradients in the order of `ScanInputs.tensors`, None for z, from those of the scans."""
    order, move = p.walk()
    grads, rows = [], None if p.direction_B is None else torch.zeros_like(p.direction_B)
    for s, grad in enumerate(found):
        mine, walk = _directions_of(p, s, order)
        du, ddelta, dB, dC = (_of_directions(x, p) for x in (grad.u, grad.delta, grad.B, grad.C))
        dbias, dgap, dtime = grad.delta_bias, None, None
        if rows is not None:
            rows.index_put_((move[:, mine].expand(dB.shape[:3]),), dB, accumulate=True)
        if grad.gap_time is not None:
            dtime = _of_directions(grad.gap_time, p)
        if p.gap is not None:
            carried = p.gap[:, mine, :, None] * dtime
            if p.delta_gap is not None:
                dgap = torch.where(p.delta_gap[s] < 0, 0, carried).sum((0, 1, 2))
                carried = torch.where(p.delta_gap[s] < 0, carried, 0)
            ddelta = ddelta + F.pad(carried[:, :, 1:], (0, 0, 0, 1))  # the gap before a step has the delta before it
            if p.delta_softplus:
                raw = _along(p.delta[s], walk, p)
                raw = raw if p.delta_bias is None else raw + p.delta_bias[s]
                ddelta = torch.ops.aten.softplus_backward(ddelta, raw, 1, 20)
            dbias = None if p.delta_bias is None else ddelta.sum((0, 1, 2))
        du = _bring_home(du, walk).sum(1)
        ddelta, dB, dC = ((_bring_home(x, walk) if p.permute_params else x).sum(1) for x in (ddelta, dB, dC))
        dtime = None if p.gap_time is None else dtime.transpose(0, 1)
        grads.append((du, ddelta, grad.A, dB, dC, grad.D, dbias, dgap, dtime))
    *by_set, times = ([g for g in same if g is not None] for same in zip(*grads, strict=True))
    du, ddelta, dA, dB, dC, dD, dbias, dgap = (torch.stack(same) if same else None for same in by_set)
    du = du if len(du) == len(p.u) else du.sum(0, keepdim=True)
    return [du, ddelta, dA, dB, dC, dD, None, dbias, rows, dgap, torch.cat(times) if times else None]


def _directions_of(p: ScanInputs, s: int, order: Tensor | None) -> tuple[slice, Tensor | None]:
    """Which directions a set of parameters serves, and their walks."""
    mine = slice(None) if p.sets == 1 else slice(s, s + 1)
    return mine, None if order is None else order[:, mine]


def _visit(x: Tensor, walk: Tensor | None) -> Tensor:
    """(B, K, C) -> (B, R, K, C): the tokens in the order of each direction."""
    if walk is None:
        return x.unsqueeze(1)
    batch, tokens = x.shape[:2]
    rows = walk + torch.arange(batch, device=x.device)[:, None, None] * tokens
    return x.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _along(x: Tensor, walk: Tensor | None, p: ScanInputs) -> Tensor:
    """(B, K, C) -> (B, R, K, C): delta, B or C at each step."""
    return _visit(x, walk) if p.permute_params or walk is None else x.unsqueeze(1).expand(-1, walk.shape[1], -1, -1)


def _of_directions(x: Tensor, p: ScanInputs) -> Tensor:
    """(B*R, C, K) -> (B, R, K, C)."""
    return x.transpose(1, 2).unflatten(0, (p.u.shape[1], p.directions // p.sets))


def _bring_home(y: Tensor, walk: Tensor | None) -> Tensor:
    """(B, R, K, C) in scan order -> where the tokens are."""
    if walk is None:
        return y
    steps = torch.arange(walk.shape[-1], device=walk.device).expand_as(walk)
    inverse = torch.empty_like(walk).scatter(-1, walk, steps)
    home = inverse.expand(y.shape[0], -1, -1).flatten(0, 1).unsqueeze(1)
    return _visit(y.flatten(0, 1), home).view_as(y)
