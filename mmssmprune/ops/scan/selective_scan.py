"""The selective scan as one torch.library operator: shapes, dispatch, autograd and FLOP formula in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_kind
from ..derivatives import gradients, needs_plain_torch, without_autocast
from ..flop_formulas import flops_of
from . import naive
from .common import ScanInputs
from .operator import SCAN_BACKENDS

_OPERANDS = (
    'Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, '
    'Tensor? gap_delta, bool delta_softplus, str backend'
)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """Selective scan with the semantics of Mamba-1 (arXiv 2312.00752, algorithm 2; mamba-ssm's ``selective_scan_fn``).

        delta = softplus(delta + delta_bias)                          (each if asked)
        h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,   h_0 = 0
        y_t = C_t h_t + D u_t,   y_t *= SiLU(z_t)                     (D and z if given)

    Args:
        u, delta, z: (B, D, L) input, step size and gate.
        A: (D, N) decay rates, negative.
        B, C: (B, N, L) input and output vectors.
        D, delta_bias: (D,) skip weight and bias of the step size.
        delta_softplus: pass ``delta + delta_bias`` through softplus.
        backend: ``'naive'``, ``'torch'``, ``'cpp'``, ``'mamba_ssm'``, ``'triton'``, or None for what the environment
            variable MMSSMPRUNE_SCAN_BACKEND names, and without it for the fastest that runs here.

    Returns:
        (B, D, L) in the dtype of ``u``. It is computed in float32, or in float64 where an operand is. Inside autocast
        the operands are cast to float32 and so is the result, because half precision overflows here. It can be
        differentiated to any order, in forward mode and by torch.func; all but the first gradient in reverse mode is
        plain torch, as slow as the naive backend whichever one was chosen.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or cannot run these tensors.
    """
    return run_scan(u, delta, A, B, C, D, z, delta_bias, None, delta_softplus, backend)


def run_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    gap_delta: Tensor | None,
    delta_softplus: bool,
    backend: str | None,
) -> Tensor:
    """Check the operands, choose the backend and call the operator; ``gap_delta`` (B, D, L) is time without input."""
    p = ScanInputs(u, delta, A, B, C, D, z, delta_bias, gap_delta, delta_softplus)
    _check(p)
    device_type = u.device.type
    if _has_autocast(device_type) and torch.is_autocast_enabled(device_type):
        p = p.to(p.compute_dtype)
    name = SCAN_BACKENDS.choose(backend, u.device, p.compute_dtype)
    if needs_plain_torch():
        with without_autocast(u.device):
            return naive.scan(p.to(p.compute_dtype)).to(p.u.dtype)
    return torch.ops.mmssmprune.selective_scan(*p.tensors, delta_softplus, name)[0]


def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)  # meta has none


_has_autocast._dynamo_marked_constant = True  # torch 2.4 cannot trace it


def _check(p: ScanInputs) -> None:
    if p.u.dim() != 3 or p.A.dim() != 2:
        raise ValueError(f'u must be (B, D, L) and A (D, N), got {tuple(p.u.shape)} and {tuple(p.A.shape)}')
    batch, dim, length = p.u.shape
    d_state = p.A.shape[1]
    sequence, vector, state = (batch, dim, length), (dim,), (batch, d_state, length)
    expected = {
        'u': sequence,
        'delta': sequence,
        'A': (dim, d_state),
        'B': state,
        'C': state,
        'D': vector,
        'z': sequence,
    }
    expected |= {'delta_bias': vector, 'gap_delta': sequence}
    for name, shape in expected.items():
        tensor = getattr(p, name)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f'{name} must be {shape} for u {sequence} and A {tuple(p.A.shape)}, got {tuple(tensor.shape)}'
            )
        check_kind(name, tensor, p.u.device)


def _forward(u, delta, A, B, C, D, z, delta_bias, gap_delta, delta_softplus, backend):
    p = ScanInputs(u, delta, A, B, C, D, z, delta_bias, gap_delta, delta_softplus)
    SCAN_BACKENDS.announce(backend, u.device.type)
    with torch.autocast(u.device.type, enabled=False):
        p = p.to(p.compute_dtype)
        module = SCAN_BACKENDS.modules[backend]
        out, saved = module.forward(p) if hasattr(module, 'forward') else (module.scan(p), p.u.new_empty(0))
    return out.to(u.dtype), saved


def _backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, gap_delta, delta_softplus, backend):
    p = ScanInputs(u, delta, A, B, C, D, z, delta_bias, gap_delta, delta_softplus)
    dtype = p.compute_dtype
    with torch.autocast(u.device.type, enabled=False):
        grads = SCAN_BACKENDS.modules[backend].backward(p.to(dtype), saved, grad_out.to(dtype))
    # An operator returns no optional tensors, so an absent operand has an empty gradient.
    return [u.new_empty(0) if t is None else g.to(t.dtype, copy=False) for t, g in zip(p.tensors, grads, strict=True)]


_scan_op = torch.library.custom_op(
    'mmssmprune::selective_scan', _forward, mutates_args=(), schema=f'({_OPERANDS}) -> (Tensor, Tensor)'
)
_scan_backward_op = torch.library.custom_op(
    'mmssmprune::selective_scan_backward',
    _backward,
    mutates_args=(),
    schema=f'(Tensor grad_out, Tensor saved, {_OPERANDS}) -> Tensor[]',
)


def _empty_result(like: Tensor, backend: str) -> Tensor:
    """An unfilled tensor of the shape of ``like`` with the strides that ``backend`` returns."""
    if backend == 'torch' and like.dim() == 3:
        return like.new_empty(like.shape[2], like.shape[0], like.shape[1]).permute(1, 2, 0)
    if backend == 'cpp' and like.dim() == 3:
        return like.new_empty(like.shape[0], like.shape[2], like.shape[1]).transpose(1, 2)
    return torch.empty_like(like, memory_format=torch.contiguous_format)


@_scan_op.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, gap_delta, delta_softplus, backend):
    p = ScanInputs(u, delta, A, B, C, D, z, delta_bias, gap_delta, delta_softplus)
    saved = u.new_empty(0, dtype=p.compute_dtype)
    if hasattr(SCAN_BACKENDS.modules[backend], 'saved_shape'):
        saved = saved.new_empty(SCAN_BACKENDS.modules[backend].saved_shape(*u.shape[:2], A.shape[1], u.shape[2]))
    return _empty_result(u, backend), saved


@_scan_backward_op.register_fake
def _(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, gap_delta, delta_softplus, backend):
    operands = [u, delta, A, B, C, D, z, delta_bias, gap_delta]
    grads = [u.new_empty(0) if t is None else _empty_result(t, backend) for t in operands]
    if z is not None and backend == 'torch':
        grads[6] = torch.empty_like(z, memory_format=torch.contiguous_format)
    return grads


def _save(ctx, inputs, output):
    *operands, ctx.delta_softplus, ctx.backend = inputs
    ctx.save_for_backward(output[1], *operands)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_out, grad_saved):
    saved, *operands = ctx.saved_tensors
    if grad_out is None:
        return (None,) * 11
    if hasattr(SCAN_BACKENDS.modules[ctx.backend], 'backward') and not needs_plain_torch():
        grads = torch.ops.mmssmprune.selective_scan_backward(
            grad_out, saved, *operands, ctx.delta_softplus, ctx.backend
        )
    else:
        p = ScanInputs(*operands, ctx.delta_softplus)
        again = needs_plain_torch() or torch.is_grad_enabled()
        grads = p.autograd_of(naive.scan if again else SCAN_BACKENDS.modules[ctx.backend].scan, grad_out)
    return (*(None if t is None else g for t, g in zip(operands, grads, strict=True)), None, None)


def _save_again(ctx, inputs, output):
    grad_out, _, *operands, ctx.delta_softplus, _ = inputs
    ctx.save_for_backward(grad_out, *operands)


def _differentiate_again(ctx, grads):
    grad_out, *operands = ctx.saved_tensors

    def backward(grad_out: Tensor, *operands: Tensor | None) -> list[Tensor | None]:
        return ScanInputs(*operands, ctx.delta_softplus).autograd_of(naive.scan, grad_out)

    by_grad_out, *by_operands = gradients(backward, [grad_out, *operands], grads)
    return by_grad_out, None, *by_operands, None, None


torch.library.register_autograd('mmssmprune::selective_scan', _differentiate, setup_context=_save)
torch.library.register_autograd('mmssmprune::selective_scan_backward', _differentiate_again, setup_context=_save_again)


@flops_of(torch.ops.mmssmprune.selective_scan)
def selective_scan_flops(u, delta, A, B, C, D, z, *args, out_shape=None, **kwargs) -> int:
    """The field's count: 9 B L D N for the recurrence, B L D each for the skip D u and for the gate."""
    batch, dim, length = u
    return batch * length * dim * (9 * A[1] + (D is not None) + (z is not None))


@flops_of(torch.ops.mmssmprune.selective_scan_backward)
def selective_scan_backward_flops(grad_out, saved, *operands, out_shape=None, **kwargs) -> int:
    """Twice the forward count, as FlopCounterMode takes it for every other operator."""
    return 2 * selective_scan_flops(*operands)
