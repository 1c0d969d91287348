"""FLOP formulas of the operators, filed where torch's counter looks."""

from __future__ import annotations

from collections.abc import Callable

from torch._ops import OpOverloadPacket
from torch.utils.flop_counter import flop_registry, register_flop_formula


def flops_of(operator: OpOverloadPacket) -> Callable:
    """Decorate the formula of ``operator``, which gets shapes in place of tensors."""

    def register(formula: Callable) -> Callable:
        formula = register_flop_formula(operator)(formula)
        # torch 2.4 files it under the overload, where its own counter does not look.
        if operator not in flop_registry and operator.default in flop_registry:
            flop_registry[operator] = flop_registry[operator.default]
        return formula

    return register
