"""What a FLOP is, by name: the conventions under which counts of these models were published.

Published counts of one model differ by a quarter, because each script leaves out something else. A convention prices
every `Operation` of a forward pass, so a pruned model is counted by the same rule as its dense baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from torch import nn

from .operations import KEPT_CONV, Operation


@dataclass(frozen=True)
class Convention:
    """A rule for counting.

    Attributes:
        name: what ``--convention`` calls it; a name may have a rule for each of several families.
        rule: what it counts.
        source: who counts so.
        price: FLOPs of one operation, given the number of class tokens in a sequence.
        family: the class of backbone that it was made for, or None for all.
    """

    name: str
    rule: str
    source: str
    price: Callable[[Operation, int], int]
    family: str | None = None


def conventions_named(name: str) -> tuple[Convention, ...]:
    """The rules of a convention, one for each of its families; raises ValueError for a name that there is not."""
    if name not in CONVENTIONS:
        raise ValueError(f'convention is {name!r}; the names are {", ".join(CONVENTIONS)}')
    return tuple(rule for rule in _ALL if rule.name == name)


def convention_for(name: str, model: nn.Module) -> Convention:
    """Look up a convention for a model; raises ValueError where it knows only the parts of another family's mixer."""
    found = conventions_named(name)
    classes = [cls.__name__ for cls in type(getattr(model, 'backbone', model)).__mro__]
    fitting = next((rule for rule in found if rule.family is None or rule.family in classes), None)
    if fitting is None:
        raise ValueError(
            f'the convention {name} is for {" and ".join(str(rule.family) for rule in found)}, and this backbone is a '
            f'{classes[0]}; field and two-per-mac count every model'
        )
    return fitting


def _scan(op: Operation, per_state: int) -> int:
    """``per_state`` * L * D * N per direction, and L * D each for the skip and for a gate inside the scan."""
    if op.scan is None:
        return 0
    return op.scan.tokens * (per_state * op.scan.d_state + op.scan.has_skip + op.scan.has_gate)


def _gated_scan(op: Operation, per_state: int) -> int:
    """The same with a skip and a gate for every direction, wherever the model applies its gate."""
    return 0 if op.scan is None else op.scan.tokens * (per_state * op.scan.d_state + 2)


def _field(op: Operation, class_tokens: int) -> int:
    return op.macs + _scan(op, 9)


def _macs(op: Operation, class_tokens: int) -> int:
    return op.macs


def _two_per_mac(op: Operation, class_tokens: int) -> int:
    return 2 * op.macs + _scan(op, 9)


def _plain_mamba(op: Operation, class_tokens: int) -> int:
    if _is_norm(op):
        return 2 * op.elements
    activation = op.elements if op.name.removesuffix('_') == 'aten.relu' else 0
    return op.macs + (op.elements if op.has_bias else 0) + activation + _scan(op, 9)


def _is_norm(op: Operation) -> bool:
    return 'batch_norm' in op.name or 'layer_norm' in op.name


def _is_per_direction(op: Operation) -> bool:
    """Made by a Vim mixer outside in_proj and out_proj, which both directions share."""
    parts = op.module.split('.')
    return 'mixer' in parts and parts[-1] not in ('in_proj', 'out_proj')


def _past_the_end(op: Operation) -> int:
    """Positions past the end, which official code computes and drops: it pads causal convolutions on both sides."""
    is_causal = op.name == KEPT_CONV and op.kernel[0] == 1
    return op.kernel[1] - 1 if is_causal else 0


def _macs_at(op: Operation, positions: int) -> int:
    return op.macs // op.positions * positions


def _both_directions(per_state: int) -> Callable[[Operation, int], int]:
    return lambda op, class_tokens: op.macs + _gated_scan(op, per_state)


def _vmamba_for_vim(op: Operation, class_tokens: int) -> int:
    return (0 if _is_per_direction(op) else op.macs) + _gated_scan(op, 9)


# FLOPs per element of the result, as fvcore has them for models in eval mode.
_PER_ELEMENT = {'layer_norm': 5, 'group_norm': 5, 'batch_norm': 2, 'upsample_bilinear2d': 4, 'upsample_nearest2d': 1}
_PER_ELEMENT |= {'_unsafe_index': 1}  # which torch makes of a nearest resizing


def _vmamba(op: Operation, class_tokens: int) -> int:
    if _is_pooling(op):
        return prod(op.operand)
    per_element = next((flops for name, flops in _PER_ELEMENT.items() if name in op.name), 0)
    return op.macs + per_element * op.elements + _scan(op, 9)


def _is_pooling(op: Operation) -> bool:
    """Average pooling of a map, or of tokens (B, L, C); to one cell it is a mean, as other things are too."""
    if op.name == 'aten.mean':
        batch, *rest = op.operand or (0,)
        of_map = len(rest) == 3 and op.shape in ((batch, rest[0], 1, 1), (batch, rest[0]))
        return of_map or (len(rest) == 2 and op.shape == (batch, rest[1]))
    return 'adaptive_avg_pool2d' in op.name


def _r_meeto(op: Operation, class_tokens: int) -> int:
    macs = _macs_at(op, op.positions + _past_the_end(op)) if op.macs else 0
    return (macs // 2 if _is_per_direction(op) else macs) + _gated_scan(op, 9) // 2


def _local_mamba(op: Operation, class_tokens: int) -> int:
    if op.scan is not None:
        return _gated_scan(op, 5) // op.scan.length * (op.scan.length - class_tokens)
    parts = op.module.split('.')
    if 'mixer' in parts and op.macs:
        macs = _macs_at(op, op.positions + _past_the_end(op) - class_tokens)
        return macs // 2 if _is_per_direction(op) else macs
    # Our RMSNorm squares its input once, so the square stands for the norm.
    if 'layers' in parts and parts[-1] == 'norm' and op.name == 'aten.pow':
        return op.elements // op.shape[1] * (op.shape[1] - class_tokens)
    return op.macs


_ALL = (
    Convention(
        'macs',
        'multiply-adds of matrix products, convolutions and attention alone; a scan is none of these and counts 0',
        'thop, fvcore and mmengine call this FLOPs or MACs, and leave out the scan in silence',
        _macs,
    ),
    Convention(
        'field',
        'multiply-adds of matrix products and convolutions, 9*L*D*N per scan direction, L*D for the skip',
        'the habit of this field, and what plans and comparisons use here',
        _field,
    ),
    Convention(
        'two-per-mac',
        'as field, but two for each multiply-add: operations in the strict sense',
        'torch.utils.flop_counter',
        _two_per_mac,
    ),
    Convention(
        'plain-mamba',
        'as field, with the biases of convolutions, 2 per element of a batch or layer norm, 1 per element of a ReLU; '
        'its published numbers are without the classifier',
        'PlainMamba, tools/analysis_tools/get_flops.py',
        _plain_mamba,
        'PlainMamba',
    ),
    Convention(
        'vmamba',
        'in_proj and out_proj, 9*L*D*N + 2*L*D per direction, patches, head; the other parts of a mixer are lost',
        'VMamba, analyze_for_vim.py',
        _vmamba_for_vim,
        'Vim',
    ),
    Convention(
        'vmamba',
        'as field (no gate, no softplus), with 5 per element of a layer norm, 2 of a batch norm, 4 of a bilinear and 1 '
        'of a nearest resizing, 1 per element that is averaged; it gives the published 4.9, 271 and 949 G of VMamba-T',
        'VMamba, vmamba.py, with the formulas of fvcore',
        _vmamba,
        'VMamba',
    ),
    Convention(
        'local-mamba',
        'without the class token; convolution, x_proj and dt_proj once instead of twice, 5*L*D*N + 2*L*D per '
        'direction, L*C per norm of a block; it gives the 1.5 G and 5.1 G of the Vim paper',
        'LocalMamba, local_vim.py, with two directions',
        _local_mamba,
        'Vim',
    ),
    Convention(
        'r-meeto',
        'one of the two directions: convolution, x_proj, dt_proj and 9*L*D*N + 2*L*D once',
        'R-MeeTo, calc_flops.py',
        _r_meeto,
        'Vim',
    ),
    Convention(
        'both-directions-9',
        'everything twice that runs twice, 9*L*D*N + 2*L*D per direction',
        'nobody; what the others leave out',
        _both_directions(9),
        'Vim',
    ),
    Convention(
        'both-directions-3',
        'everything twice that runs twice, 3*L*D*N + 2*L*D per direction',
        'nobody; with the three products of the recurrence alone',
        _both_directions(3),
        'Vim',
    ),
)
# By name; of a name with a rule for each of several families the first.
CONVENTIONS: dict[str, Convention] = {}
for _convention in _ALL:
    CONVENTIONS.setdefault(_convention.name, _convention)
