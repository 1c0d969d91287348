"""The convolution over kept tokens as one torch.library operator: shapes, dispatch, autograd and FLOP formula."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import Backends
from ..checks import check_kind
from ..derivatives import gradients, needs_plain_torch, without_autocast
from ..flop_formulas import flops_of
from . import cpp, naive, triton
from . import torch as whole_grid
from .inputs import ConvInputs

CONV_BACKENDS = Backends(
    'kept_conv',
    'convolutions over tokens',
    'MMSSMPRUNE_CONV_BACKEND',
    {'naive': naive, 'torch': whole_grid, 'cpp': cpp, 'triton': triton},
)

_OPERANDS = (
    'Tensor x, Tensor weight, Tensor? bias, Tensor? cells, Tensor? slot, Tensor? out_cells, '
    'Tensor? out_slot, SymInt height, SymInt width, int top, int left, str backend'
)


def kept_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    cells: Tensor | None = None,
    slot: Tensor | None = None,
    out_cells: Tensor | None = None,
    out_slot: Tensor | None = None,
    hw_shape: tuple[int, int],
    origin: tuple[int, int],
    backend: str | None = None,
) -> Tensor:
    """Depthwise convolution of tokens at all or some cells of a grid, at the cells where it is asked for.

    An output at row r and column c of the grid is, with zero for cells that are off the grid or hold no token,

        y = bias + sum_{i,j} weight[:, 0, i, j] * x[token at (r + oy + i, c + ox + j)]

    Args:
        x: (B, M, C) tokens.
        weight: (C, 1, kh, kw) or, for a kernel of height 1, (C, 1, kw), as nn.Conv2d and nn.Conv1d hold it.
        bias: (C,).
        cells: (B, M) integers, the raster number of each token's cell; no cell twice. None: every cell has its token,
            in raster order.
        slot: (B, H*W) integers, the same the other way around: the token at each cell, or -1.
        out_cells, out_slot: (B, K) and (B, H*W), likewise for the outputs. None: at the tokens.
        hw_shape: (H, W) of the grid; (1, L) for a sequence.
        origin: (oy, ox), from an output's cell to the neighbour under the first tap: the padding with a minus sign.
        backend: ``'naive'``, ``'torch'`` (convolves the whole grid), ``'cpp'``, ``'triton'``, or None for what the
            environment variable MMSSMPRUNE_CONV_BACKEND names, and without it for the fastest that runs here.

    Returns:
        (B, K, C) in the dtype of ``x``. It is computed in float32, or in float64 where an operand is. Derivatives are
        those of `mmssmprune.ops.selective_scan`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or cannot run these tensors; on a
            CPU also cells and slots that are not each other's inverse. On a GPU these are not looked at, which would
            wait for the device.
    """
    for first, second, names in ((cells, slot, 'cells and slot'), (out_cells, out_slot, 'out_cells and out_slot')):
        if (first is None) != (second is None):
            raise ValueError(f'{names} belong together; give both or neither')
    if out_cells is None:
        out_cells, out_slot = cells, slot
    if weight.dim() == 3:
        weight = weight.unsqueeze(2)
    p = ConvInputs(x, weight, bias, cells, slot, out_cells, out_slot, *hw_shape, *origin)
    _check(p)
    name = CONV_BACKENDS.choose(backend, x.device, p.compute_dtype)
    if needs_plain_torch():
        p.check_places()
        return _plain(p)
    tensors = (x, weight, bias, cells, slot, out_cells, out_slot)
    return torch.ops.mmssmprune.kept_conv(*tensors, *hw_shape, *origin, name)


def _check(p: ConvInputs) -> None:
    if p.x.dim() != 3 or p.weight.dim() != 4:
        shapes = ' and '.join(str(tuple(t.shape)) for t in (p.x, p.weight))
        raise ValueError(f'x must be (B, M, C) and weight (C, 1, kh, kw) or (C, 1, kw), got {shapes}')
    batch, tokens, channels = p.x.shape
    grid = (batch, p.height * p.width)
    if p.cells is None and tokens != grid[1]:
        raise ValueError(
            f'x {tuple(p.x.shape)} must have a token for each cell of {(p.height, p.width)}, or give cells'
        )
    expected = {
        'x': p.x.shape,
        'weight': (channels, 1, *p.weight.shape[2:]),
        'bias': (channels,),
        'cells': (batch, tokens),
    }
    expected |= {'slot': grid, 'out_cells': p.out_shape[:2], 'out_slot': grid}
    for name, shape in expected.items():
        tensor = getattr(p, name)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f'{name} must be {shape} for x {tuple(p.x.shape)} on a grid {(p.height, p.width)}, '
                f'got {tuple(tensor.shape)}'
            )
        check_kind(name, tensor, p.x.device, integer=name.endswith(('cells', 'slot')))


def _forward(*operands):
    *operands, backend = operands
    p = ConvInputs(*operands)
    backend = CONV_BACKENDS.resolve(backend, p.x.device, p.compute_dtype)
    CONV_BACKENDS.announce(backend, p.x.device.type)
    if backend == 'cpp':
        cpp.check_places(p)
    else:
        p.check_places()
    with torch.autocast(p.x.device.type, enabled=False):
        return CONV_BACKENDS.modules[backend].forward(p)


def _backward(grad_out, *operands):
    *operands, backend = operands
    p = ConvInputs(*operands)
    with torch.autocast(p.x.device.type, enabled=False):
        grads = CONV_BACKENDS.modules[backend].backward(p, grad_out)
    # An operator returns no optional tensors, so an absent bias has an empty gradient.
    return [p.x.new_empty(0) if g is None else g for g in grads]


_conv_op = torch.library.custom_op(
    'mmssmprune::kept_conv', _forward, mutates_args=(), schema=f'({_OPERANDS}) -> Tensor'
)
_conv_backward_op = torch.library.custom_op(
    'mmssmprune::kept_conv_backward', _backward, mutates_args=(), schema=f'(Tensor grad_out, {_OPERANDS}) -> Tensor[]'
)


@_conv_op.register_fake
def _(*operands):
    p = ConvInputs(*operands[:-1])
    return p.x.new_empty(p.out_shape)


@_conv_backward_op.register_fake
def _(grad_out, *operands):
    p = ConvInputs(*operands[:-1])
    return [p.x.new_empty(0) if t is None else t.new_empty(t.shape) for t in p.tensors]


def _save(ctx, inputs, output):
    ctx.options = inputs[7:]
    ctx.save_for_backward(*inputs[:7])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_out):
    if grad_out is None:
        return (None,) * 12
    tensors = ctx.saved_tensors  # once: gradient checkpointing allows no second look
    if needs_plain_torch():
        grads = _plain_backward(grad_out, *tensors, *ctx.options[:-1])
    else:
        grads = torch.ops.mmssmprune.kept_conv_backward(grad_out, *tensors, *ctx.options)
    has_bias = tensors[2] is not None
    return (*grads[:2], grads[2] if has_bias else None, *(None,) * 9)


def _plain(p: ConvInputs) -> Tensor:
    """The naive convolution in torch's own operations, which it can differentiate in every mode and to every order."""
    with without_autocast(p.x.device):
        return naive.forward(p)


def _plain_backward(grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *rest) -> list[Tensor | None]:
    return gradients(lambda *leaves: [_plain(ConvInputs(*leaves, *rest))], [x, weight, bias], [grad_out])


def _save_again(ctx, inputs, output):
    ctx.options = inputs[8:12]
    ctx.save_for_backward(*inputs[:8])


def _differentiate_again(ctx, grads):
    tensors = ctx.saved_tensors
    found = gradients(lambda *leaves: _plain_backward(*leaves, *tensors[4:], *ctx.options), tensors[:4], grads)
    return (*found, *(None,) * 9)


torch.library.register_autograd('mmssmprune::kept_conv', _differentiate, setup_context=_save)
torch.library.register_autograd('mmssmprune::kept_conv_backward', _differentiate_again, setup_context=_save_again)


@flops_of(torch.ops.mmssmprune.kept_conv)
def kept_conv_flops(x, weight, bias, cells, slot, out_cells, *args, out_shape=None, **kwargs) -> int:
    """2 B K C kh kw, as every convolution is counted."""
    outputs = args[1] * args[2] if out_cells is None else out_cells[1]
    return 2 * x[0] * outputs * weight[0] * weight[2] * weight[3]


@flops_of(torch.ops.mmssmprune.kept_conv_backward)
def kept_conv_backward_flops(grad_out, *operands, out_shape=None, **kwargs) -> int:
    """Twice the forward count, as FlopCounterMode takes it for every other operator."""
    return 2 * kept_conv_flops(*operands)
