"""Counting floating point operations of a real forward pass, the selective scan included."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mmssmprune.models.flops import field_count, make_flop_counter

# Operators that only move data or that FLOP tables leave out by habit: not worth a line in `FlopCount.unsupported`.
# Elementwise ones and views need no entry, torch tags them. The underscore of an in-place name is cut off first.
_MINOR = re.compile(
    r"""
    (new_|scalar_)?(empty|fill|full|ones|tensor|zero|zeros)(_like|_strided)? | arange | eye | linspace
    | rand | randint | randn | randperm | rand_like | randint_like | randn_like | tril? | triu | tril_indices
    | .*(copy|gather|index|nonzero|pad|repeat|scatter|select|slice|unique|view).* | as_strided | cat
    | col2im | embedding | equal | flip | floor_divide | im2col | isin | lift_fresh | _local_scalar_dense
    | pixel_shuffle | resize | roll | stack
    | (arg)?sort | searchsorted | topk | all | any | (a|arg|cum)?(max|min) | count_nonzero | cum(sum|prod) | logsumexp
    | mean | median | prod | std(_mean)? | sum | var(_mean)?
    | .*(norm|pool|softmax|upsample).*
    """,
    re.VERBOSE,
)
_POST_PROCESSING = {'nms', 'softnms', 'nms_match', 'nms_quadri', 'nms_rotated'}


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one forward pass by `mmssmprune.models.flops.CONVENTION`, as integers.

    Attributes:
        backbone, neck: FLOPs inside the modules ``model.backbone`` and ``model.neck`` (0 where there is none).
        heads: everything else that ran.
        per_op: FLOPs by operator; their sum is `total`.
        per_module: FLOPs by module path inside the model (``backbone.layers.3.mixer``), children included.
        unsupported: operators that did arithmetic but have no formula, with the number of calls; they count 0.
        uncounted: every operator without a formula except views, with calls and the number of elements it made.
    """

    backbone: int
    neck: int
    heads: int
    per_op: dict[str, int] = field(default_factory=dict)
    per_module: dict[str, int] = field(default_factory=dict)
    unsupported: dict[str, int] = field(default_factory=dict)
    uncounted: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """FLOPs of the whole model."""
        return self.backbone + self.neck + self.heads


def count_flops(model: nn.Module, forward: Callable[[], Any] | Tensor) -> FlopCount:
    """Run one forward pass without gradients and count it.

    Args:
        model: in eval mode. Its children ``backbone`` and ``neck`` are counted apart; a model without them, such as a
            backbone alone, is all ``heads``.
        forward: calls the model, or the input tensor to call it with.
    """
    call = (lambda: model(forward)) if isinstance(forward, Tensor) else forward
    counter = make_flop_counter()
    spy = _UncountedOperators(counter)
    compiled: Counter[str] = Counter()
    # The spy lies below the counter, so it sees operators after the counter has split composite ones.
    with torch.no_grad(), _mmcv_compiled_calls(compiled), spy, counter:
        call()
    return _collect(type(model).__name__, counter, spy, compiled)


def _collect(root: str, counter: FlopCounterMode, spy: _UncountedOperators, compiled: Counter[str]) -> FlopCount:
    counts = {module: field_count(ops) for module, ops in counter.get_flop_counts().items()}
    per_op = counts.get('Global', {})
    prefix = f'{root}.'
    per_module = {name.removeprefix(prefix): sum(ops.values()) for name, ops in counts.items() if name != 'Global'}
    backbone, neck = per_module.get('backbone', 0), per_module.get('neck', 0)
    unsupported = {name: calls for name, calls in spy.calls.items() if not _is_minor(name)}
    unsupported |= {f'mmcv.{name}': n for name, n in compiled.items() if name not in _POST_PROCESSING}
    uncounted = {name: {'calls': calls, 'elements': spy.elements[name]} for name, calls in spy.calls.items()}
    uncounted |= {f'mmcv.{name}': {'calls': calls, 'elements': 0} for name, calls in compiled.items()}
    heads = sum(per_op.values()) - backbone - neck
    return FlopCount(backbone, neck, heads, per_op, per_module, unsupported, uncounted)


def _is_minor(op_name: str) -> bool:
    namespace, name, overload = op_name.split('.')
    if namespace != 'aten':
        return name in _POST_PROCESSING
    tags = getattr(getattr(torch.ops.aten, name), overload).tags
    return torch.Tag.pointwise in tags or _MINOR.fullmatch(name.removesuffix('_')) is not None


class _UncountedOperators(TorchDispatchMode):
    """Notes every operator that runs without a FLOP formula."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.counter = counter
        self.calls: Counter[str] = Counter()
        self.elements: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket not in self.counter.flop_registry and not func.is_view:
            self.calls[str(func)] += 1
            self.elements[str(func)] += sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out


@contextmanager
def _mmcv_compiled_calls(calls: Counter[str]) -> Iterator[None]:
    """Count calls into mmcv's compiled operators: they bypass torch's dispatcher, so no mode sees them."""
    try:
        from mmcv import _ext
    except ImportError:
        yield
        return
    originals = {name: f for name, f in vars(_ext).items() if callable(f) and not name.startswith('_')}

    def watched(name: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    try:
        for name, function in originals.items():
            setattr(_ext, name, watched(name, function))
        yield
    finally:
        for name, function in originals.items():
            setattr(_ext, name, function)
