"""The operators of this package in standard ones, which an ONNX file may hold: the scan as a loop over chunks of steps.

`FORMS` decompose a `torch.export` program; where a loop belongs they leave a node that `with_loops` replaces in the
ONNX model. Time comes first here, [K, R, B, ...] with R directions: a turn of the loop reads adjacent memory.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops.kept_conv import torch as whole_grid
from mmssmprune.ops.kept_conv.inputs import ConvInputs
from mmssmprune.ops.scan.inputs import ScanInputs

# Steps in a turn of the loop: a runtime spends as long on starting a turn as on several steps.
STEPS = 16
DOMAIN, RECURRENCE = 'mmssmprune', 'Recurrence'


def scan_form(*operands) -> tuple[Tensor, Tensor, Tensor]:
    """`mmssmprune::multi_scan` with all directions side by side in one recurrence.

    Of its three results the last two, which only a backward would read, are empty.
    """
    narrow = ScanInputs(*operands[:18], *operands[19:])
    p = narrow.wide()
    walk, move = p.walk()
    if walk is None:  # a single direction along the sequence
        walk = torch.arange(p.u.shape[2], device=p.u.device)[None, None]
    u, B, delta = _visited(p.u, walk), _params(p.B, walk, p), _params(p.delta, walk, p)
    if p.direction_B is not None:
        B = B + p.direction_B[move.permute(2, 1, 0)]
    if p.delta_bias is not None:
        delta = delta + p.delta_bias.unsqueeze(1)
    delta = F.softplus(delta) if p.delta_softplus else delta
    y = _recurrence(_elapsed(delta, p), delta * u, p.A, B, _params(p.C, walk, p))
    y = _brought_home(y, walk)
    if p.D is not None:
        y = y + _skipped(p)
    y = y if p.z is None else y * F.silu(p.z)
    return y.to(narrow.u.dtype), y.new_empty(0), y.new_empty(0)


def conv_form(*operands) -> Tensor:
    """`mmssmprune::kept_conv`: the tokens to the grid, a convolution of all of it, and the outputs picked."""
    return whole_grid.forward(ConvInputs(*operands[:-1]))


def searchsorted_form(sorted_sequence: Tensor, values: Tensor) -> Tensor:
    """`aten::searchsorted` with its defaults, which ONNX has not: how many of the sorted values are smaller."""
    return (sorted_sequence.unsqueeze(-2) < values.unsqueeze(-1)).sum(-1)


def sort_form(x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple:
    """`aten::sort.stable`: ONNX has no other sort than TopK, where of two as large the earlier one comes first."""
    return torch.ops.aten.sort.default(x, dim, descending)


def argsort_form(x: Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> Tensor:
    """`aten::argsort.stable`, likewise."""
    return sort_form(x, stable=stable, dim=dim, descending=descending)[1]


FORMS: dict[Callable, Callable] = {
    torch.ops.mmssmprune.multi_scan.default: scan_form,
    torch.ops.mmssmprune.kept_conv.default: conv_form,
    torch.ops.aten.searchsorted.Tensor: searchsorted_form,
    torch.ops.aten.sort.stable: sort_form,
    torch.ops.aten.argsort.stable: argsort_form,
}


def _rows(steps: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Numbers of directions (R, 1) and of images (1 or B)."""
    return torch.arange(steps.shape[1], device=steps.device)[:, None], torch.arange(batch, device=steps.device)


def _visited(x: Tensor, walk: Tensor) -> Tensor:
    """(S, B, K, C) and walks (1 or B, R, K) -> (K, R, B, C): the tokens in the order of each direction."""
    sets, batch, tokens, _ = x.shape
    direction, image = _rows(walk, batch)
    rows = walk.permute(2, 1, 0) + (direction * batch + image if sets > 1 else image) * tokens
    return x.flatten(0, 2).index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _params(x: Tensor, walk: Tensor, p: ScanInputs) -> Tensor:
    """(S, B, K, C) -> (K, R, B, C): delta, B or C at each step."""
    if p.permute_params:
        return _visited(x, walk)
    return x.permute(2, 0, 1, 3).expand(-1, walk.shape[1], -1, -1)


def _elapsed(delta: Tensor, p: ScanInputs) -> Tensor:
    """The time (K, R, B, D) that passes in each step: delta, that of the pruned cells before it, and what is given."""
    elapsed = delta
    if p.gap is not None:
        carried = F.pad(delta[:-1], (0, 0, 0, 0, 0, 0, 1, 0))
        if p.delta_gap is not None:
            own = p.delta_gap.unsqueeze(1)
            carried = torch.where(own < 0, carried, own)
        elapsed = elapsed + p.gap.permute(2, 1, 0).unsqueeze(-1) * carried
    return elapsed if p.gap_time is None else elapsed + p.gap_time.permute(2, 0, 1, 3)


def _recurrence(elapsed: Tensor, inputs: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """h_t = exp(elapsed_t A) h_{t-1} + inputs_t B_t, y_t = C_t h_t: (K, R, B, D)."""
    length = elapsed.shape[0]
    turns = (length + STEPS - 1) // STEPS
    # In the steps that fill the last turn no time passes and nothing comes in.
    filled = (F.pad(x, (0, 0, 0, 0, 0, 0, 0, turns * STEPS - length)) for x in (elapsed, inputs, B, C))
    elapsed, inputs, B, C = (x.unflatten(0, (turns, STEPS)) for x in filled)
    state = elapsed.new_zeros(*elapsed.shape[2:4], A.shape[2], A.shape[1])
    operands = (state, elapsed, inputs, B, C, A.transpose(1, 2).unsqueeze(1))
    y = torch.onnx.ops.symbolic(
        f'{DOMAIN}::{RECURRENCE}', operands, dtype=elapsed.dtype, shape=elapsed.shape, version=1
    )
    return y.flatten(0, 1)[:length]


def _brought_home(y: Tensor, walk: Tensor) -> Tensor:
    """(K, R, B, D) in scan order -> (B, K, D), the sum over the directions at each token."""
    _, directions, batch, _ = y.shape
    direction, image = _rows(walk, batch)
    home = walk.argsort(-1).permute(1, 0, 2)  # [R, 1 or B, K], when each token is visited
    rows = (home * directions + direction.unsqueeze(-1)) * batch + image[:, None]
    return y.flatten(0, 2).index_select(0, rows.flatten()).unflatten(0, rows.shape).sum(0)


def _skipped(p: ScanInputs) -> Tensor:
    """D u (B, K, D), summed over the directions."""
    if p.u.shape[0] > 1:
        return (p.D[:, None, None] * p.u).sum(0)
    return p.u[0] * p.D.sum(0) * (p.directions // p.sets)


def with_loops(model: ir.Model) -> None:
    """Put a standard Scan in the place of every node that `_recurrence` left."""
    for node in list(model.graph):
        if (node.domain, node.op_type) == (DOMAIN, RECURRENCE):
            loop = _loop_of(node)
            ir.convenience.replace_nodes_and_values(
                model.graph, node, [node], [loop], [node.outputs[0]], [loop.outputs[1]]
            )
    model.graph.opset_imports.pop(DOMAIN, None)


def _loop_of(node: ir.Node) -> ir.Node:
    state, *sequences, decay = node.inputs
    (y,) = node.outputs
    name = y.name

    def inside(part: str, shape: ir.Shape) -> ir.Value:
        return ir.Value(name=f'{name}.{part}', type=ir.TensorType(y.dtype), shape=shape)

    before = inside('before', state.shape)
    parts = ('elapsed', 'inputs', 'B', 'C')
    turn = [inside(part, ir.Shape(x.shape[1:])) for part, x in zip(parts, sequences, strict=True)]
    tape = ir.tape.Tape()
    after, out = _turn(tape, before, *turn, decay)
    after.name, out.name = f'{name}.after', f'{name}.out'
    after.type = out.type = ir.TensorType(y.dtype)
    after.shape, out.shape = state.shape, ir.Shape(y.shape[1:])
    for number, value in enumerate(value for inner in tape.nodes for value in inner.outputs):
        value.name = value.name or f'{name}.{number}'  # names inside have to differ from those outside
    body = ir.Graph([before, *turn], [after, out], nodes=tape.nodes, name=f'{name}.turn')
    attributes = [ir.AttrGraph('body', body), ir.AttrInt64('num_scan_inputs', len(turn))]
    return ir.Node('', 'Scan', [state, *sequences], attributes, num_outputs=2, name=f'{name}.scan')


def _turn(
    tape: ir.tape.Tape, state: ir.Value, elapsed: ir.Value, inputs: ir.Value, B: ir.Value, C: ir.Value, decay: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """A turn of the loop: the state (R, B, N, D) after ``STEPS`` steps, and their y (STEPS, R, B, D)."""

    def op(op_type: str, *values: ir.Value, **attributes: int) -> ir.Value:
        return tape.op(op_type, values, attributes)

    def axis(number: int) -> ir.Value:
        return tape.op('Constant', [], {'value': ir.tensor([number], dtype=ir.DataType.INT64)})

    def steps_of(x: ir.Value) -> list[ir.Value]:
        return tape.op_multi_out('Split', [x], {'axis': 0, 'num_outputs': STEPS}, num_outputs=STEPS)

    steps, row, column = axis(0), axis(3), axis(4)
    kept = op('Exp', op('Mul', op('Unsqueeze', elapsed, row), decay))  # [STEPS, R, B, N, D]
    added = op('Mul', op('Unsqueeze', inputs, row), op('Unsqueeze', B, column))
    states = [op('Unsqueeze', state, steps)]
    for a, x in zip(steps_of(kept), steps_of(added), strict=True):
        states.append(op('Add', op('Mul', a, states[-1]), x))
    y = op('MatMul', op('Unsqueeze', C, row), op('Concat', *states[1:], axis=0))
    return op('Squeeze', states[-1], steps), op('Squeeze', y, row)
