"""The multi-directional scan out of single scans: the reference with `naive`, and the portable form with the others."""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..derivatives import gradients, without_autocast
from . import naive
from .common import ScanInputs
from .inputs import MultiScanInputs


def scan(p: MultiScanInputs, module: ModuleType) -> Tensor:
    """Permute, scan, bring home, sum over the directions, gate. Differentiable by autograd; returns (B, K, D)."""
    total = _sum_at_home(p, [module.scan(single) for single in _single_scans(p)])
    return total if p.z is None else total * F.silu(p.z)


def plain_scan(p: MultiScanInputs) -> Tensor:
    """The naive scan in torch's own operations, which it can differentiate in every mode and to every order."""
    with without_autocast(p.u.device):
        return scan(p.wide(), naive).to(p.u.dtype)


def plain_backward(p: MultiScanInputs, grad_out: Tensor) -> list[Tensor | None]:
    """The gradients of `plain_scan`, which can be differentiated again where gradients are enabled."""
    return gradients(lambda *tensors: [plain_scan(p.with_tensors(list(tensors)))], p.tensors, [grad_out])


def _single_scans(p: MultiScanInputs) -> list[ScanInputs]:
    """One scan per set of parameters; a set that serves all directions has them side by side in the batch."""
    order, move = p.walk()
    scans = []
    for s in range(p.sets):
        mine = slice(None) if p.sets == 1 else slice(s, s + 1)
        walk = order[:, mine]
        u = _visit(p.u[s], walk)  # [B, R, K, D]
        along = _visit if p.permute_params else _every_direction_in_raster_order
        delta, B, C = (along(x[s], walk) for x in (p.delta, p.B, p.C))
        if p.direction_B is not None:
            B = B + p.direction_B[move[:, mine]]
        bias, gap_delta, softplus = None if p.delta_bias is None else p.delta_bias[s], None, p.delta_softplus
        if p.gap is not None:
            delta = delta if bias is None else delta + bias
            delta = F.softplus(delta) if softplus else delta
            carried = F.pad(delta[:, :, :-1], (0, 0, 1, 0))
            passed = carried if p.delta_gap is None else torch.where(p.delta_gap[s] < 0, carried, p.delta_gap[s])
            gap_delta = _as_sequences(p.gap[:, mine, :, None] * passed)
            bias, softplus = None, False
        u, delta, B, C = (_as_sequences(x) for x in (u, delta, B, C))
        scans.append(
            ScanInputs(u, delta, p.A[s], B, C, None if p.D is None else p.D[s], None, bias, gap_delta, softplus)
        )
    return scans


def _visit(x: Tensor, order: Tensor) -> Tensor:
    """(B, K, C) -> (B, R, K, C): the tokens in the order of each direction."""
    batch, tokens = x.shape[:2]
    rows = order + torch.arange(batch, device=x.device)[:, None, None] * tokens
    return x.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _every_direction_in_raster_order(x: Tensor, order: Tensor) -> Tensor:
    return x.unsqueeze(1).expand(-1, order.shape[1], -1, -1)


def _as_sequences(x: Tensor) -> Tensor:
    """(B, R, K, C) -> (B*R, C, K)."""
    return x.flatten(0, 1).transpose(1, 2)


def _sum_at_home(p: MultiScanInputs, scanned: list[Tensor]) -> Tensor:
    """(B*R, D, K) per set, in scan order -> (B, K, D), the sum over the directions at each token."""
    order, _ = p.walk()
    steps = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    inverse = torch.empty_like(order).scatter_(-1, order, steps)
    batch = p.u.shape[1]
    y = torch.cat([y.transpose(1, 2).unflatten(0, (batch, -1)) for y in scanned], 1)  # [B, R, K, D]
    at_home = _visit(y.flatten(0, 1), inverse.expand(batch, -1, -1).reshape(-1, 1, inverse.shape[-1]))
    return at_home.view_as(y).sum(1)


def saved_shapes(p: MultiScanInputs, module: ModuleType) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the last two results of `forward`."""
    if not hasattr(module, 'forward'):
        return (0,), (0,)
    _, batch, tokens, dim = p.u.shape
    state = module.saved_shape(batch * p.directions // p.sets, dim, p.A.shape[2], tokens)
    return (0,) if p.z is None else (batch, tokens, dim), (p.sets, *state)


def forward(p: MultiScanInputs, module: ModuleType) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output (B, K, D), the sum before the gate, and what the single scans saved, one per set."""
    p = p.wide()
    none = p.u.new_empty(0)
    if not hasattr(module, 'forward'):
        return scan(p, module), none, none.clone()
    scanned, saved = zip(*(module.forward(single) for single in _single_scans(p)), strict=True)
    total = _sum_at_home(p, list(scanned))
    if p.z is None:
        return total, none, torch.stack(saved)
    return total * F.silu(p.z), total, torch.stack(saved)


def backward(
    p: MultiScanInputs, total: Tensor, saved: Tensor, grad_out: Tensor, module: ModuleType, name: str
) -> list[Tensor | None]:
    """Return the gradients in the order of `MultiScanInputs.tensors`, in the dtype of each operand.

    What permutes is differentiated by autograd; the single scans by their operator, or with it where the backend
    ``module`` of that ``name`` has no backward. Runs outside of an operator, inside of which there is no autograd.
    """
    leaves = [None if t is None else t.detach().requires_grad_() for t in p.tensors]
    present = [t for t in leaves if t is not None]
    by_autograd = not hasattr(module, 'forward')
    grad_out, dz = grad_out.to(p.compute_dtype), None
    with torch.enable_grad():
        wide = p.with_tensors([None if t is None else t.to(p.compute_dtype) for t in leaves])
        scans = [] if by_autograd else _single_scans(wide)
        outputs = [scan(wide, module)] if by_autograd else [t for s in scans for t in s.tensors if t is not None]
    if p.z is not None and not by_autograd:
        z = wide.z.detach()
        sigmoid = z.sigmoid()
        dz = (grad_out * total * sigmoid * (1 + z * (1 - sigmoid))).to(p.z.dtype)
        grad_out = grad_out * z * sigmoid
    grads = [grad_out] if by_autograd else _single_gradients(p, scans, saved, grad_out, name)
    found = iter(torch.autograd.grad(outputs, present, grads, allow_unused=True, materialize_grads=True))
    result = [None if t is None else next(found) for t in leaves]
    return result if dz is None else [*result[:6], dz, *result[7:]]


def _single_gradients(
    p: MultiScanInputs, scans: list[ScanInputs], saved: Tensor, grad_out: Tensor, name: str
) -> list[Tensor]:
    """The gradients of all operands of all single scans, in one list."""
    grads = []
    order, _ = p.walk()
    for s, (single, state) in enumerate(zip(scans, saved.unbind(0), strict=True)):
        operands = [None if t is None else t.detach() for t in single.tensors]
        dy = _as_sequences(_visit(grad_out, order if p.sets == 1 else order[:, s : s + 1]))
        found = torch.ops.mmssmprune.selective_scan_backward(dy, state, *operands, single.delta_softplus, name)
        grads += [g for g, t in zip(found, operands, strict=True) if t is not None]
    return grads
