"""After which layers tokens are pruned, and how many stay: stated by a keep ratio, or by a target to be met."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from mmssmprune._values import flag, is_list, is_number, is_whole

from .units import unit_groups

PLAN_KEYS = (
    'layers',
    'start',
    'every',
    'keep_ratio',
    'flops_reduction',
    'input_shape',
    'tokens',
    'equal_steps',
    'unit',
)
# Each of these alone decides how much is kept.
TARGETS = ('flops_reduction', 'tokens')
DECIDING = ('keep_ratio', *TARGETS)
# The value of ``layers`` that names the layers where a target prunes unless told.
DEFAULT_LAYERS = 'default'
EXAMPLE = 'pruning=dict(layers=[5, 11, 17], keep_ratio=0.7)'

# Solved ratios have four decimals, so that the ratio in a log or table gives the same plan again.
RATIO_STEPS = 10_000
MIN_KEEP_RATIO = 1 / RATIO_STEPS
# A solved ratio meets its target this closely, or as closely as whole tokens allow: tables show tenths of a percent.
TOLERANCE = 1e-3
# So many tokens that rounding up to whole ones does not show.
_CONTINUUM = 10**12
# Of a ratio as a fraction; times any number of tokens it stays within 64 bits, and is exact for ratios of six decimals.
_LARGEST_DENOMINATOR = 10**6


@dataclass(frozen=True)
class PrunePlan:
    """After layer ``layers[j]`` (0-based) has run, ``ceil(keep_ratios[j] * alive)`` tokens stay.

    With a ``unit`` (h, w) of several cells it is so many of the units instead, of each size by itself: how many tokens
    stay depends on it, so it belongs to the plan. With ``equal_steps`` each pruning takes away that share of all tokens
    instead of the living ones: as many every time.
    """

    layers: tuple[int, ...]
    keep_ratios: tuple[float, ...]
    unit: tuple[int, int] = (1, 1)
    equal_steps: bool = False

    def at(self, keep_ratio: float | Sequence[float]) -> PrunePlan:
        """The same but for other ratios; raises ValueError as `make_plan` does."""
        return replace(self, keep_ratios=make_keep_ratios(keep_ratio, len(self.layers)))

    def keep_after(self, layer: int, alive: int, length: int | None = None) -> int:
        """How many of ``alive`` tokens the layers after ``layer`` process; of ``length`` before any pruning."""
        if layer not in self.layers:
            return alive
        ratio = self.keep_ratios[self.layers.index(layer)]
        counted = length if self.equal_steps else alive
        if isinstance(counted, torch.SymInt):  # a program with open image sizes can be saved with integers alone
            share = Fraction(ratio).limit_denominator(_LARGEST_DENOMINATOR)
            kept = (max(1, share.numerator) * counted + share.denominator - 1) // share.denominator
            return alive - counted + kept
        # 0.55 * 100 is 55.00000000000001 in floating point, and 55 tokens is what was asked for.
        return max(1, alive - counted + math.ceil(ratio * counted - 1e-9))

    def tokens_per_layer(self, layers: range, length: int, reopened: Collection[int] = ()) -> list[int]:
        """Tokens that each of a stage's ``layers`` processes, from ``length`` at the first.

        A pruning after the last layer of the stage before is where this one begins pruned. ``reopened`` are layers
        after whose pruning all cells become candidates of the next pruning layer; the layers before that one still
        process the pruned number.
        """
        tokens = [self.keep_after(layers[0] - 1, length, length)]
        for layer in layers[:-1]:
            alive = length if self._is_reopened_at(layer, layers[0], reopened) else tokens[-1]
            tokens.append(self.keep_after(layer, alive, length))
        return tokens

    def keep_units(
        self, layer: int, hw_shape: tuple[int, int], alive: Sequence[int] = ()
    ) -> tuple[tuple[int, ...], int]:
        """How many units of each size stay after ``layer``, and how many cells these have.

        ``alive`` are the units of each size that are left of the grid ``hw_shape``; all of them where it is empty.
        """
        groups = unit_groups(hw_shape, self.unit)
        whole = [group.count for group in groups]
        kept = tuple(self.keep_after(layer, n, of) for n, of in zip(alive or whole, whole, strict=True))
        return kept, sum(n * group.cells for n, group in zip(kept, groups, strict=True))

    def tokens_on_grid(self, layers: range, hw_shape: tuple[int, int], reopened: Collection[int] = ()) -> list[int]:
        """Tokens that each of a stage's ``layers`` processes on a grid (h, w); see `tokens_per_layer`."""
        groups = unit_groups(hw_shape, self.unit)
        units = [self.tokens_per_layer(layers, group.count, reopened) for group in groups]
        return [
            sum(n * group.cells for n, group in zip(each, groups, strict=True)) for each in zip(*units, strict=True)
        ]

    def token_share(self, stages: Sequence[range], reopened: Collection[int] = ()) -> float:
        """Mean over all stages' layers of the share of the dense tokens that they process, on endlessly fine grids."""
        tokens = [n for layers in stages for n in self.tokens_per_layer(layers, _CONTINUUM, reopened)]
        return sum(tokens) / (len(tokens) * _CONTINUUM)

    def _is_reopened_at(self, layer: int, first: int, reopened: Collection[int]) -> bool:
        """Whether the pruning layer ``layer`` of the stage that starts at ``first`` may choose from all cells again."""
        earlier = [i for i in self.layers if first - 1 <= i < layer]
        return layer in self.layers and bool(earlier) and any(max(earlier[-1], first) <= i < layer for i in reopened)


@dataclass(frozen=True)
class PlanTarget:
    """What a plan has to reach; one of the first two is given.

    Attributes:
        tokens: mean over the layers of the share of the dense tokens that they process, in (0, 1].
        flops_reduction: share of the dense backbone's FLOPs that is saved at ``input_shape``, in [0, 1).
        input_shape: (H, W) in pixels. ``tokens`` without it means an endlessly fine grid.
    """

    tokens: float | None = None
    flops_reduction: float | None = None
    input_shape: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The key of the `pruning` dict."""
        return 'flops_reduction' if self.tokens is None else 'tokens'

    @property
    def value(self) -> float:
        """The number to be reached."""
        return getattr(self, self.name)

    @property
    def is_dense(self) -> bool:
        """Whether nothing has to be pruned."""
        return self.value == (0 if self.tokens is None else 1)


def plan_from_config(
    config: Mapping[str, Any], num_layers: int, default_layers: Sequence[int]
) -> tuple[PrunePlan, PlanTarget | None]:
    """Read the `PLAN_KEYS` of a `pruning` dict; a key that is None counts as not given.

    Args:
        config: the dict.
        num_layers: depth of the backbone.
        default_layers: where a target prunes unless told, and what ``layers='default'`` means.

    Returns:
        The plan, and None; or, where a target is given, a plan that keeps everything and the target it has to meet.

    Raises:
        ValueError: keys are missing, contradict each other or have wrong values.
    """
    given = {key: config[key] for key in PLAN_KEYS if config.get(key) is not None}
    target = _target_of(given)
    if target is None and 'keep_ratio' not in given:
        raise ValueError(
            f"pruning needs 'keep_ratio', or a target: 'flops_reduction' or 'tokens'; a plan is e.g. {EXAMPLE}"
        )
    layers = _layers_of(given, num_layers, default_layers, optional=target is not None)
    more = dict(unit=_unit_of(given), equal_steps=flag('pruning.equal_steps', given.get('equal_steps', False)))
    if 'layers' not in given and not layers:
        return PrunePlan((), (), **more), target  # a single layer has nothing after it
    return replace(make_plan(layers, given.get('keep_ratio', 1.0), num_layers), **more), target


def overridden(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """A `pruning` dict whose keys were set from outside, by ``--cfg-options`` say: they win over those they contradict.

    A keep ratio overrides a target, and keeps the target's own layers; a target overrides a keep ratio or another
    target; ``layers`` override ``start`` and ``every``, and these ``layers``.

    Args:
        before: as the config has it.
        after: the same after the change.
    """
    stated = {key for key in PLAN_KEYS if after.get(key) is not None}
    new = {key for key in stated if after[key] != before.get(key)}
    spacing = {'start', 'every'}
    gone = set()
    if new.intersection(DECIDING):
        gone |= set(DECIDING) - new
        if not new.intersection(TARGETS):
            gone |= {'input_shape'} - new
    if 'layers' in new:
        gone |= spacing - new
    elif new & spacing:
        gone.add('layers')
    result = {key: value for key, value in after.items() if key not in gone}
    had_target = any(before.get(key) is not None for key in TARGETS)
    if had_target and 'keep_ratio' in new and not (stated - gone) & {'layers', *spacing}:
        result['layers'] = DEFAULT_LAYERS
    return result


def _target_of(given: Mapping[str, Any]) -> PlanTarget | None:
    names = [key for key in DECIDING if key in given]
    if len(names) > 1:
        raise ValueError(f'pruning has {" and ".join(names)}, which would each decide how much is kept; give one')
    if 'input_shape' in given and names in ([], ['keep_ratio']):
        raise ValueError('pruning.input_shape belongs to a target; give flops_reduction or tokens with it')
    if names in ([], ['keep_ratio']):
        return None
    shape = _input_shape_of(given)
    value = given[names[0]]
    if 'tokens' in given:
        if not is_number(value) or not 0 < value <= 1:
            raise ValueError(f'pruning.tokens must be a share of tokens above 0 and at most 1, got {value!r}')
        return PlanTarget(tokens=float(value), input_shape=shape)
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f'pruning.flops_reduction must be a share of FLOPs from 0 to below 1, got {value!r}')
    if shape is None:
        raise ValueError(
            'pruning.flops_reduction needs the size of the image at which it holds, e.g. input_shape=(512, 512)'
        )
    return PlanTarget(flops_reduction=float(value), input_shape=shape)


def _input_shape_of(given: Mapping[str, Any]) -> tuple[int, int] | None:
    shape = given.get('input_shape')
    if shape is None:
        return None
    sizes = list(shape) if is_list(shape) else []
    if len(sizes) != 2 or not all(is_whole(n) and n > 0 for n in sizes):
        raise ValueError(f'pruning.input_shape must be (H, W) in pixels, two whole numbers above 0, got {shape!r}')
    return int(sizes[0]), int(sizes[1])


def _unit_of(given: Mapping[str, Any]) -> tuple[int, int]:
    unit = given.get('unit', (1, 1))
    sides = list(unit) if is_list(unit) else []
    if len(sides) != 2 or not all(is_whole(n) and n > 0 for n in sides):
        raise ValueError(f'pruning.unit must be (h, w) in cells, two whole numbers above 0, got {unit!r}')
    return int(sides[0]), int(sides[1])


def _layers_of(given: Mapping[str, Any], num_layers: int, default: Sequence[int], optional: bool) -> Sequence[int]:
    """The pruning layers, given as ``layers`` or as ``start`` and ``every``, or the default ones."""
    spaced = [key for key in ('start', 'every') if key in given]
    if 'layers' in given and not spaced:
        named = isinstance(given['layers'], str) and given['layers'] == DEFAULT_LAYERS
        return default if named else given['layers']
    if len(spaced) == 2 and 'layers' not in given:
        return layers_from(given['start'], given['every'], num_layers)
    if optional and not spaced:
        return default
    raise ValueError(f"pruning needs 'layers', or 'start' and 'every' instead, e.g. {EXAMPLE}")


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
    if not is_list(layers) or not len(layers) or not all(map(is_whole, layers)):
        raise ValueError(f'pruning.layers must be a list of layer numbers such as [5, 11, 17], got {layers!r}')
    layers = tuple(int(i) for i in layers)
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
        if not is_whole(value) or not smallest <= value <= largest:
            raise ValueError(f'pruning.{name} must be a whole number from {smallest} to {largest}, got {value!r}')
    return list(range(int(start), num_layers - 1, int(every)))


def make_keep_ratios(keep_ratio: float | Sequence[float], count: int) -> tuple[float, ...]:
    """Return one checked ratio per pruning layer; raises ValueError as `make_plan` does."""
    several = is_list(keep_ratio)
    ratios = tuple(keep_ratio) if several else (keep_ratio,) * count
    for ratio in ratios if several else (keep_ratio,):
        if not is_number(ratio) or not 0 < ratio <= 1:
            raise ValueError(f'pruning.keep_ratio must be a number above 0 and at most 1, got {ratio!r}')
    if len(ratios) != count:
        raise ValueError(f'pruning.keep_ratio has {len(ratios)} values for {count} layers; give one number or {count}')
    return tuple(float(r) for r in ratios)


def solve_keep_ratio(
    achieved: Callable[[float], float], target: float, guide: Callable[[float], float] = lambda ratio: ratio
) -> float:
    """The keep ratio, of four decimals, at which ``achieved`` comes to ``target`` or as near as it can.

    Args:
        achieved: monotone in the keep ratio, rising or falling; may have steps. It is called as seldom as possible,
            but for the least and the largest ratio in any case.
        target: the value wanted; the search ends within `TOLERANCE` of it.
        guide: cheap and monotone. The closer ``achieved`` is to a linear function of it, the fewer calls are needed.
    """
    low, high = 1, RATIO_STEPS
    reached = {n: achieved(n / RATIO_STEPS) for n in (high, low)}
    rises = reached[high] > reached[low]
    halve = False
    while high - low > 1 and min(abs(value - target) for value in reached.values()) > TOLERANCE:
        share = _share_of_way(target, reached[low], reached[high])
        if share is None:
            break
        middle = (low + high) // 2 if halve else _between(guide, low, high, share)
        reached[middle] = achieved(middle / RATIO_STEPS)
        width = high - low
        low, high = (middle, high) if (reached[middle] < target) == rises else (low, middle)
        halve = 2 * (high - low) > width  # interpolation creeps where there are steps
    # Of equally near ones the one that prunes least.
    return min(reached, key=lambda n: (abs(reached[n] - target), -n)) / RATIO_STEPS


def _share_of_way(target: float, first: float, last: float) -> float | None:
    """How far from ``first`` to ``last`` the target lies, or None where it does not lie between them."""
    return (target - first) / (last - first) if min(first, last) < target < max(first, last) else None


def _between(guide: Callable[[float], float], low: int, high: int, share: float) -> int:
    """The step inside (low, high) where the guide has gone ``share`` of its way."""
    first, last = guide(low / RATIO_STEPS), guide(high / RATIO_STEPS)
    if first == last:
        return (low + high) // 2
    inside = range(low + 1, high)
    return inside[bisect_left(inside[:-1], share, key=lambda n: (guide(n / RATIO_STEPS) - first) / (last - first))]
