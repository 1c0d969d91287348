"""The scan along one or several directions as a torch.library operator: shapes, dispatch, autograd and FLOP formula."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..backends import Backends
from ..checks import check_kind
from ..derivatives import gradients, needs_plain_torch
from ..flop_formulas import flops_of
from ..walks import GRID_WALKS
from . import cpp, mamba_ssm, naive, sequences, triton
from . import torch as chunked
from .inputs import ScanInputs

SCAN_BACKENDS = Backends(
    'selective scan',
    'selective scans',
    'MMSSMPRUNE_SCAN_BACKEND',
    {'naive': naive, 'torch': chunked, 'cpp': cpp, 'mamba_ssm': mamba_ssm, 'triton': triton},
)

_OPERANDS = (
    'Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, '
    'Tensor? direction_B, Tensor? delta_gap, Tensor? order, Tensor? move, Tensor? gap, int directions, SymInt width, '
    'bool lines, bool delta_softplus, bool permute_params, str backend'
)
PARAM_ORDERS = ('raster', 'scan')


def available_backends(device: torch.device | str = 'cpu') -> list[str]:
    """Names of the backends that run on ``device`` here, the fastest last: ``['naive', 'torch', 'cpp']`` on a CPU."""
    return SCAN_BACKENDS.available(device)


def multi_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    order: Tensor | None = None,
    move: Tensor | None = None,
    direction_B: Tensor | None = None,
    hw_shape: tuple[int, int] | None = None,
    walk: str = 'snakes',
    gap: Tensor | None = None,
    delta_gap: Tensor | None = None,
    delta_softplus: bool = True,
    param_order: str = 'scan',
    backend: str | None = None,
) -> Tensor:
    """Selective scan of K tokens along R directions, summed where the tokens are and gated.

    Tokens are in raster order, channels last. Direction r visits token ``order[r, t]`` at step t:

        delta = softplus(delta + delta_bias)                           (each if asked)
        h_t = exp((delta_t + gap_t delta_gap) A) h_{t-1} + delta_t (B_t + direction_B[move_t]) u_{order[t]}
        y_{order[t]} += C_t h_t + D u_{order[t]};   after all directions y *= SiLU(z)

    Where S = R every direction has operands of its own (Vim), where S = 1 all share them (PlainMamba). Directions that
    share ``u`` alone pass it once. The axis S may be left out when it is 1: of ``u``, or of all operands.

    Args:
        u: (S, B, K, D) input, or (1, B, K, D) beside more sets of the others.
        delta: (S, B, K, D) step size.
        A: (S, D, N) decay rates, negative.
        B, C: (S, B, K, N) input and output vectors.
        D, delta_bias: (S, D) skip weight and bias of the step size.
        z: (B, K, D) gate.
        order: (R, K) or (B, R, K) integers. None: with ``hw_shape`` the four walks over the grid that ``walk`` names,
            without it the sequence forward and backward.
        move: shaped as ``order``, the row of ``direction_B`` for each step; not needed for the snakes.
        direction_B: (M, N) what is added to B; the snakes use row 0 at their start, then 1 right, 2 left, 3 up, 4 down.
        hw_shape: (H, W) with H W = K.
        walk: ``'snakes'`` (PlainMamba), or ``'lines'``: rows, columns and the reverse of both (VMamba).
        gap: (B, R, K) integers: pruned cells just before each token in scan order.
        delta_gap: (S, D) step size of each of those cells; where negative, and where None, it is the delta of the
            step before.
        delta_softplus: pass ``delta + delta_bias`` through softplus.
        param_order: ``'scan'``: delta, B and C at step t are those of the visited token. ``'raster'`` (the official
            PlainMamba): those of token t, only u is permuted.
        backend: as in `selective_scan`.

    Returns:
        (B, K, D) in the dtype of ``u``, inside autocast too. It is computed in float32, or in float64 where an operand
        is. Derivatives are those of `selective_scan`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or cannot run these tensors; on a
            CPU also an ``order`` that does not visit every token once, and values of ``move`` and ``gap`` out of range.
            On a GPU these are not looked at, which would wait for the device.
    """
    if param_order not in PARAM_ORDERS:
        raise ValueError(f'param_order is {param_order!r}; the names are {", ".join(PARAM_ORDERS)}')
    if walk not in GRID_WALKS:
        raise ValueError(f'walk is {walk!r}; the names are {", ".join(GRID_WALKS)}')
    if u.dim() == 3:
        u = u.unsqueeze(0)
        if A.dim() == 2:
            delta, A, B, C, D, delta_bias, delta_gap = (
                None if t is None else t.unsqueeze(0) for t in (delta, A, B, C, D, delta_bias, delta_gap)
            )
    order, move = (t.unsqueeze(0) if t is not None and t.dim() == 2 else t for t in (order, move))
    directions = order.shape[1] if order is not None and order.dim() == 3 else 2 if hw_shape is None else 4
    width = 0 if order is not None or hw_shape is None else hw_shape[1]
    operands = (u, delta, A, B, C, D, z, delta_bias, direction_B, delta_gap, order, move, gap)
    lines = width > 0 and walk == 'lines'
    p = ScanInputs(*operands, directions, width, lines, delta_softplus, param_order == 'scan')
    _check(p, hw_shape)
    return run(p, backend)


def run(p: ScanInputs, backend: str | None) -> Tensor:
    """Choose the backend and call the operator, whose operands fit: (B, K, D)."""
    name = SCAN_BACKENDS.choose(backend, p.u.device, p.compute_dtype)
    if needs_plain_torch():
        p.check_walk()
        return sequences.plain_scan(p)
    *tensors, gap_time = p.tensors
    trained = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in p.tensors)
    options = (p.directions, p.width, p.lines, p.delta_softplus, p.permute_params, name, trained, gap_time)
    return torch.ops.mmssmprune.multi_scan(*tensors, p.order, p.move, p.gap, *options)[0]


def _check(p: ScanInputs, hw_shape: tuple[int, int] | None) -> None:
    if p.u.dim() != 4 or p.A.dim() != 3:
        raise ValueError(f'u must be (S, B, K, D) and A (S, D, N), got {tuple(p.u.shape)} and {tuple(p.A.shape)}')
    inputs, batch, tokens, dim = p.u.shape
    sets = max(inputs, p.sets)
    if sets not in (1, p.directions):
        name = 'u' if sets == inputs else 'A'
        raise ValueError(f'{name} has {sets} sets of parameters for {p.directions} directions; it must be 1 or as many')
    if p.width and hw_shape[0] * hw_shape[1] != tokens:
        raise ValueError(f'hw_shape {tuple(hw_shape)} must have as many cells as u has tokens, {tokens}')
    if p.direction_B is not None and p.move is None and (p.lines or not p.width):
        raise ValueError('direction_B needs move, which only the snakes over hw_shape know by themselves')
    d_state = p.A.shape[2]
    sequence, vector, state = (sets, batch, tokens, dim), (sets, dim), (sets, batch, tokens, d_state)
    walk = (batch, p.directions, tokens)
    expected = {
        'u': [sequence] if inputs > 1 else [(1, *sequence[1:])],
        'delta': [sequence],
        'A': [(sets, dim, d_state)],
        'B': [state],
        'C': [state],
        'D': [vector],
    }
    expected |= {'z': [sequence[1:]], 'delta_bias': [vector], 'delta_gap': [vector], 'gap': [walk]}
    expected |= {'order': [walk, (1, *walk[1:])], 'move': [walk, (1, *walk[1:])]}
    if p.direction_B is not None:
        expected['direction_B'] = [(len(p.direction_B), d_state)]
    for name, shapes in expected.items():
        tensor = getattr(p, name)
        if tensor is None:
            continue
        if tuple(tensor.shape) not in shapes:
            raise ValueError(
                f'{name} must be {" or ".join(map(str, shapes))} for u {sequence} and A {tuple(p.A.shape)}, '
                f'got {tuple(tensor.shape)}'
            )
        check_kind(name, tensor, p.u.device, integer=name in ('order', 'move', 'gap'))


def _inputs(operands) -> tuple[ScanInputs, str, ModuleType]:
    """The operands of the operator, of which the last two may be left out, and the backend with its module."""
    p = ScanInputs(*operands[:18], *operands[19:])
    backend = SCAN_BACKENDS.resolve(operands[18], p.u.device, p.compute_dtype)
    return p, backend, SCAN_BACKENDS.modules[backend]


def _backward_inputs(operands) -> tuple[ScanInputs, str, ModuleType]:
    """Those of the backward operator, which has no ``keep_states``."""
    return _inputs((*operands[:19], True, *operands[19:]))


def _forward(*operands):
    p, backend, module = _inputs(operands)
    SCAN_BACKENDS.announce(backend, p.u.device.type)
    if backend != 'cpp':  # which looks by itself, and faster
        p.check_walk()
    with torch.autocast(p.u.device.type, enabled=False):
        if hasattr(module, 'forward'):
            return module.forward(p)
        return sequences.scan(p, module.scan), p.u.new_empty(0), p.u.new_empty(0)


def _backward(grad_out, total, saved, *operands):
    p, _, module = _backward_inputs(operands)
    with torch.autocast(p.u.device.type, enabled=False):
        grads = module.backward(p, total, saved, grad_out)
    # An operator returns no optional tensors, so an absent operand has an empty gradient.
    return [p.u.new_empty(0) if g is None else g for g in grads]


_scan_op = torch.library.custom_op(
    'mmssmprune::multi_scan',
    _forward,
    mutates_args=(),
    schema=f'({_OPERANDS}, bool keep_states=True, Tensor? gap_time=None) -> (Tensor, Tensor, Tensor)',
)
_scan_backward_op = torch.library.custom_op(
    'mmssmprune::multi_scan_backward',
    _backward,
    mutates_args=(),
    schema=f'(Tensor grad_out, Tensor total, Tensor saved, {_OPERANDS}, Tensor? gap_time) -> Tensor[]',
)


@_scan_op.register_fake
def _(*operands):
    p, _, module = _inputs(operands)
    kept = module.unfilled(p) if hasattr(module, 'unfilled') else (p.u.new_empty(0), p.u.new_empty(0))
    return p.u.new_empty(p.u.shape[1:]), *kept


@_scan_backward_op.register_fake
def _(grad_out, total, saved, *operands):
    p, _, _ = _backward_inputs(operands)
    return [p.u.new_empty(0 if t is None else t.shape, dtype=None if t is None else t.dtype) for t in p.tensors]


def _save(ctx, inputs, output):
    ctx.options, ctx.keep_states = inputs[13:19], inputs[19]
    ctx.save_for_backward(*output[1:], *inputs[:13], inputs[20])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_out, grad_total, grad_saved):
    if grad_out is None:
        return (None,) * 21
    if not ctx.keep_states:
        raise RuntimeError('a multi_scan with keep_states=False has no gradient')
    total, saved, *tensors, gap_time = ctx.saved_tensors  # once: gradient checkpointing allows no second look
    *options, backend = ctx.options
    p, module = ScanInputs(*tensors, *options, gap_time=gap_time), SCAN_BACKENDS.modules[backend]
    if needs_plain_torch() or (torch.is_grad_enabled() and not hasattr(module, 'backward')):
        grads = sequences.plain_backward(p, grad_out)
    elif hasattr(module, 'backward'):
        grads = torch.ops.mmssmprune.multi_scan_backward(grad_out, total, saved, *tensors, *ctx.options, gap_time)
    else:
        grads = sequences.backward(p, module.scan, grad_out)
    *grads, by_gap_time = (None if t is None else g for t, g in zip(p.tensors, grads, strict=True))
    return (*grads, *(None,) * 10, by_gap_time)


def _save_again(ctx, inputs, output):
    grad_out, _, _, *tensors = inputs[:16]
    ctx.options = inputs[16:21]
    ctx.save_for_backward(grad_out, *tensors, inputs[22])


def _differentiate_again(ctx, grads):
    grad_out, *tensors, gap_time = ctx.saved_tensors
    walk = tensors[10:]

    def backward(grad_out: Tensor, *operands: Tensor | None) -> list[Tensor | None]:
        *operands, gap_time = operands
        return sequences.plain_backward(ScanInputs(*operands, *walk, *ctx.options, gap_time=gap_time), grad_out)

    by_grad_out, *found, by_gap_time = gradients(backward, [grad_out, *tensors[:10], gap_time], grads)
    return by_grad_out, None, None, *found, *(None,) * 9, by_gap_time


torch.library.register_autograd('mmssmprune::multi_scan', _differentiate, setup_context=_save)
torch.library.register_autograd('mmssmprune::multi_scan_backward', _differentiate_again, setup_context=_save_again)


@flops_of(torch.ops.mmssmprune.multi_scan)
def multi_scan_flops(u, delta, A, B, C, D, z, *args, out_shape=None, **kwargs) -> int:
    """The field's count per direction: 9 B K D N, and B K D for D u, and for a gate that belongs to one direction.

    That of all directions together is an activation, which is left out.
    """
    _, batch, tokens, dim = u
    order, directions = args[3], args[6]
    gates = z is not None and is_gated_by_itself(order, directions)
    return batch * tokens * dim * directions * (9 * A[2] + (D is not None) + gates)


def is_gated_by_itself(order: object | None, directions: int) -> bool:
    """Whether a gate belongs to the scan: that of `selective_scan`, a single direction along the sequence."""
    return order is None and directions == 1


@flops_of(torch.ops.mmssmprune.multi_scan_backward)
def multi_scan_backward_flops(grad_out, total, saved, *operands, out_shape=None, **kwargs) -> int:
    """Twice the forward count, as FlopCounterMode takes it for every other operator."""
    return 2 * multi_scan_flops(*operands)
