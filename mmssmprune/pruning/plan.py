"""After which layers tokens are pruned, and how many stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real


@dataclass(frozen=True)
class PrunePlan:
    """After layer ``layers[j]`` (0-based) has run, ``ceil(keep_ratios[j] * alive)`` tokens stay."""

    layers: tuple[int, ...]
    keep_ratios: tuple[float, ...]

    def keep_after(self, layer: int, alive: int) -> int:
        """How many of ``alive`` tokens the layers after ``layer`` process."""
        if layer not in self.layers:
            return alive
        ratio = self.keep_ratios[self.layers.index(layer)]
        # 0.55 * 100 is 55.00000000000001 in floating point, and 55 tokens is what was asked for.
        return max(1, math.ceil(ratio * alive - 1e-9))

    def tokens_per_layer(self, num_layers: int, length: int) -> list[int]:
        """Tokens that each of ``num_layers`` layers processes, from ``length`` at the first."""
        tokens = [length]
        for layer in range(num_layers - 1):
            tokens.append(self.keep_after(layer, tokens[-1]))
        return tokens


def make_plan(layers: Sequence[int], keep_ratio: float | Sequence[float], num_layers: int) -> PrunePlan:
    """Check and build a plan.

    Args:
        layers: 0-based layers after which tokens are pruned.
        keep_ratio: share of the tokens alive that stays, in (0, 1]; one number, or one per entry of ``layers``.
        num_layers: depth of the backbone.

    Raises:
        ValueError: a layer is beyond the depth, repeated or out of order; a ratio is no number in (0, 1]; or the
            numbers of ratios and layers differ.
    """
    if isinstance(layers, int) or not all(isinstance(i, int) and not isinstance(i, bool) for i in layers):
        raise ValueError(f'pruning.layers must be a list of layer numbers such as [5, 11, 17], got {layers!r}')
    layers = tuple(layers)
    beyond = [i for i in layers if not 0 <= i < num_layers]
    if beyond:
        raise ValueError(f'pruning.layers names layer {beyond[0]}, but this backbone has layers 0 to {num_layers - 1}')
    if list(layers) != sorted(set(layers)):
        raise ValueError(f'pruning.layers must be ascending without repeats, got {list(layers)}')
    return PrunePlan(layers, make_keep_ratios(keep_ratio, len(layers)))


def layers_from(start: int, every: int, num_layers: int) -> list[int]:
    """Layers ``start``, ``start + every``, ... before the last one: the paper's spacing at equal gaps.

    Raises:
        ValueError: ``start`` is no layer after which another one follows, or ``every`` is no whole number above 0.
    """
    for name, value, smallest, largest in (('start', start, 0, num_layers - 2), ('every', every, 1, num_layers)):
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
            raise ValueError(f'pruning.{name} must be a whole number from {smallest} to {largest}, got {value!r}')
    return list(range(start, num_layers - 1, every))


def make_keep_ratios(keep_ratio: float | Sequence[float], count: int) -> tuple[float, ...]:
    """Return one checked ratio per pruning layer; raises ValueError as `make_plan` does."""
    is_list = isinstance(keep_ratio, Sequence) and not isinstance(keep_ratio, str)
    ratios = tuple(keep_ratio) if is_list else (keep_ratio,) * count
    for ratio in ratios if is_list else (keep_ratio,):
        if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 < ratio <= 1:
            raise ValueError(f'pruning.keep_ratio must be a number above 0 and at most 1, got {ratio!r}')
    if len(ratios) != count:
        raise ValueError(f'pruning.keep_ratio has {len(ratios)} values for {count} layers; give one number or {count}')
    return tuple(float(r) for r in ratios)
