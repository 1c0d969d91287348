"""FLOPs of whole models, by parts and operators, with nothing left out in silence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .conventions import Convention, convention_for
from .operations import NOT_RUN, Operation, record_operations

# Operators that only move data or that FLOP tables leave out by habit: not worth a line in `FlopCount.unsupported`.
# Elementwise ones and views need no entry, torch tags them. The underscore of an in-place name is cut off first.
_MINOR = re.compile(
    r"""
    (new_|scalar_)?(empty|fill|full|ones|tensor|zero|zeros)(_like|_strided)? | arange | eye | linspace
    | rand | randint | randn | randperm | rand_like | randint_like | randn_like | tril? | triu | tril_indices
    | .*(copy|gather|index|masked_fill|nonzero|pad|repeat|scatter|select|slice|unique|view).* | as_strided | cat
    | col2im | embedding | equal | flip | floor_divide | im2col | isin | lift_fresh | _local_scalar_dense
    | pixel_shuffle | resize | roll | stack
    | _prelu_kernel | set
    | (arg)?sort | searchsorted | topk | all | any | (a|arg|cum)?(max|min) | count_nonzero | cum(sum|prod) | logsumexp
    | mean | median | prod | std(_mean)? | sum | var(_mean)?
    | .*(norm|pool|softmax|upsample).*
    """,
    re.VERBOSE,
)
_POST_PROCESSING = {'nms', 'softnms', 'nms_match', 'nms_quadri', 'nms_rotated'}


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one forward pass, as integers.

    Attributes:
        backbone, neck: FLOPs inside the modules ``model.backbone`` and ``model.neck`` (0 where there is none).
        heads: everything else that ran.
        per_op: FLOPs by operator; their sum is `total`.
        per_module: FLOPs by module path inside the model (``backbone.layers.3.mixer``), children included.
        unsupported: operators that did arithmetic but have no formula, with the number of calls; they count 0.
        uncounted: every operator without a formula except views, with calls and the number of elements it made.
        convention: the name of the rule by which all of this is counted.
        left_out: a part that does not run without real images and is missing in every number, and why; '' if none.
    """

    backbone: int
    neck: int
    heads: int
    per_op: dict[str, int] = field(default_factory=dict)
    per_module: dict[str, int] = field(default_factory=dict)
    unsupported: dict[str, int] = field(default_factory=dict)
    uncounted: dict[str, dict[str, int]] = field(default_factory=dict)
    convention: str = 'field'
    left_out: str = ''

    @property
    def total(self) -> int:
        """FLOPs of the whole model."""
        return self.backbone + self.neck + self.heads

    @property
    def parts(self) -> dict[str, int]:
        """Backbone, neck, heads and total by name, as tables and JSON have them."""
        return {'backbone': self.backbone, 'neck': self.neck, 'heads': self.heads, 'total': self.total}


def count_flops(model: nn.Module, forward: Callable[[], Any] | Tensor, convention: str = 'field') -> FlopCount:
    """Run one forward pass without gradients and count it.

    Args:
        model: in eval mode. Its children ``backbone`` and ``neck`` are counted apart; a model without them, such as a
            backbone alone, is all ``heads``.
        forward: calls the model, or the input tensor to call it with.
        convention: a name in `mmssmprune.analysis.cost.conventions.CONVENTIONS`.

    Raises:
        ValueError: there is no such convention, or it was not made for this model's backbone.
    """
    rule = convention_for(convention, model)
    return price(record_operations(model, forward), rule, count_class_tokens(model))


def count_class_tokens(model: nn.Module) -> int:
    """Tokens of a sequence that belong to no cell of the grid."""
    return getattr(getattr(model, 'backbone', model), 'num_extra_tokens', 0)


def price(operations: Sequence[Operation], convention: Convention, class_tokens: int = 0) -> FlopCount:
    """Count recorded operations by a convention."""
    per_op: Counter[str] = Counter()
    per_module: Counter[str] = Counter()
    for op in operations:
        flops = convention.price(op, class_tokens)
        if flops:
            per_op[op.name] += flops
            per_module.update(dict.fromkeys(_ancestors(op.module), flops))
    backbone, neck = per_module['backbone'], per_module['neck']
    ran = [op for op in operations if op.name != NOT_RUN]
    return FlopCount(
        backbone=backbone,
        neck=neck,
        heads=per_op.total() - backbone - neck,
        per_op=dict(per_op),
        per_module={name: flops for name, flops in per_module.items() if name},
        unsupported=dict(Counter(op.overload for op in ran if not op.has_formula and not _is_minor(op))),
        uncounted=_uncounted(ran),
        left_out='; '.join(op.overload for op in operations if op.name == NOT_RUN),
        convention=convention.name,
    )


def _ancestors(module: str) -> list[str]:
    """The path of a module and those of all modules around it: a.b.c, a.b, a."""
    parts = module.split('.') if module else []
    return ['.'.join(parts[:i]) for i in range(len(parts), 0, -1)]


def _uncounted(operations: Sequence[Operation]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for op in operations:
        if not op.has_formula:
            entry = found.setdefault(op.overload, {'calls': 0, 'elements': 0})
            entry['calls'] += 1
            entry['elements'] += op.elements
    return found


def _is_minor(op: Operation) -> bool:
    namespace, _, rest = op.overload.partition('.')
    name, _, overload = rest.partition('.')
    if namespace != 'aten':
        return name in _POST_PROCESSING
    tags = getattr(getattr(torch.ops.aten, name), overload).tags
    return torch.Tag.pointwise in tags or _MINOR.fullmatch(name.removesuffix('_')) is not None
