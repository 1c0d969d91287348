"""Every tensor operation of a forward pass, with what it takes to price it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mmssmprune.models.flops import SCAN, make_flop_counter
from mmssmprune.ops.scan.operator import is_gated_by_itself

KEPT_CONV = 'mmssmprune.kept_conv'
# Name of an `Operation` that stands for a part which does not run; its ``overload`` says which and why.
NOT_RUN = 'not run'
# Places of the order and of the number of directions among the operands of a scan.
_ORDER, _DIRECTIONS = 10, 13


@dataclass(frozen=True)
class ScanSize:
    """Sizes of one call of the selective scan; a batch entry is one direction of one image."""

    batch: int
    dim: int
    d_state: int
    length: int
    has_skip: bool
    has_gate: bool

    @property
    def tokens(self) -> int:
        """B * L * D, the elements of the output."""
        return self.batch * self.length * self.dim


@dataclass(frozen=True)
class Operation:
    """One call of an operator.

    Attributes:
        module: path of the innermost module that made it, inside the model (``backbone.layers.3.mixer``); '' for the
            model itself.
        name: the operator without overload, such as ``aten.convolution``.
        shape: of its (first) result.
        operand: shape of its first tensor argument.
        macs: multiply-adds where it is a matrix product, convolution or attention.
        has_formula: whether there is a formula for it; the scan has one, although its ``macs`` are 0.
        has_bias: a convolution that adds a bias.
        positions: rows of a matrix product, or output positions of a convolution, for which ``macs`` are spent.
        kernel: sides of a convolution's kernel.
        scan: sizes of a selective scan.
        overload: the operator's full name.
    """

    module: str
    name: str
    shape: tuple[int, ...] = ()
    macs: int = 0
    has_formula: bool = False
    has_bias: bool = False
    positions: int = 0
    kernel: tuple[int, ...] = ()
    scan: ScanSize | None = None
    overload: str = ''
    operand: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """Number of elements of its (first) result."""
        return prod(self.shape) if self.shape else 0

    def is_inside(self, module: str) -> bool:
        """Whether ``module`` or a part of it made the call."""
        return self.module == module or self.module.startswith(f'{module}.')


def record_operations(
    model: nn.Module, forward: Callable[[], Any] | Tensor, into: list[Operation] | None = None
) -> list[Operation]:
    """Run one forward pass without gradients and list its operations, views left out.

    Args:
        model: in eval mode, on any device, 'meta' included.
        forward: calls the model, or the input tensor to call it with.
        into: filled as the pass goes on, for what it did before an error.
    """
    call = (lambda: model(forward)) if isinstance(forward, Tensor) else forward
    counter = make_flop_counter()
    recorder = _Recorder(counter, type(model).__name__, [] if into is None else into)
    # The recorder lies below the counter, so it sees operators after the counter has split composite ones.
    with torch.no_grad(), _mmcv_compiled_calls(recorder), recorder, counter:
        call()
    return recorder.operations


class _Recorder(TorchDispatchMode):
    """Notes every operator that runs below a FLOP counter, which knows formulas and the module at work."""

    def __init__(self, counter: FlopCounterMode, root: str, operations: list[Operation]) -> None:
        super().__init__()
        self.counter, self.root, self.operations = counter, root, operations

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations.append(self._describe(func, args, kwargs or {}, out))
        return out

    def note(self, name: str) -> None:
        """A call that torch's dispatcher does not see."""
        self.operations.append(Operation(self.module, name, overload=name))

    @property
    def module(self) -> str:
        """Path of the innermost module at work."""
        path = max(self.counter.mod_tracker.parents, key=lambda name: (name != 'Global', name.count('.')))
        return '' if path in ('Global', self.root) else path.removeprefix(f'{self.root}.')

    def _describe(self, func, args: tuple, kwargs: dict, out: Any) -> Operation:
        packet = func._overloadpacket
        name = str(packet)
        result = next((leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)), None)
        shape = () if result is None else tuple(result.shape)
        source = next((leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), None)
        operand = () if source is None else tuple(source.shape)
        operation = dict(module=self.module, name=name, shape=shape, overload=str(func), operand=operand)
        if packet not in self.counter.flop_registry:
            return Operation(**operation)
        if name == SCAN:
            return Operation(**operation, has_formula=True, scan=_scan_size(args))
        flops = self.counter.flop_registry[packet](*args, **kwargs, out_val=out)
        return Operation(**operation, macs=flops // 2, has_formula=True, **_shape_facts(name, args, result))


def _scan_size(args: tuple) -> ScanSize:
    u, _, A, _, _, D, z = args[:7]
    _, batch, length, dim = u.shape
    directions = args[_DIRECTIONS]
    has_gate = z is not None and is_gated_by_itself(args[_ORDER], directions)
    return ScanSize(batch * directions, dim, A.shape[2], length, D is not None, has_gate)


def _shape_facts(name: str, args: tuple, out: Tensor) -> dict[str, Any]:
    if name == KEPT_CONV:
        weight, bias = args[1:3]
        positions = out.numel() // out.shape[-1]
        return {'has_bias': bias is not None, 'positions': positions, 'kernel': tuple(weight.shape[2:])}
    if 'convolution' not in name:
        return {'positions': out.numel() // out.shape[-1]}
    is_transposed, source = bool(args[6]), args[0]
    # A transposed convolution spends its multiply-adds per position of its input.
    positions = source if is_transposed else out
    return {
        'has_bias': args[2] is not None,
        'positions': positions.shape[0] * prod(positions.shape[2:]),
        'kernel': tuple(args[1].shape[2:]),
    }


@contextmanager
def _mmcv_compiled_calls(recorder: _Recorder) -> Iterator[None]:
    """Note calls into mmcv's compiled operators: they bypass torch's dispatcher, so no mode sees them."""
    try:
        from mmcv import _ext
    except ImportError:
        yield
        return
    originals = {name: f for name, f in vars(_ext).items() if callable(f) and not name.startswith('_')}

    def watched(name: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            recorder.note(f'mmcv.{name}')
            return function(*args, **kwargs)

        return call

    try:
        for name, function in originals.items():
            setattr(_ext, name, watched(name, function))
        yield
    finally:
        for name, function in originals.items():
            setattr(_ext, name, function)
