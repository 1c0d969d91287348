"""The search: arms are ways to prune, and of each arm the deepest level is sought at which the loss is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Protocol

from mmssmprune.models.plan_target import TargetOutOfReach
from mmssmprune.pruning.pruner import SCORE_KEYS
from mmssmprune.pruning.reduction import REDUCTION
from mmssmprune.pruning.stage import Stage, default_layers

# Shares of the dense backbone's FLOPs that are tried.
LEVELS = tuple(round(0.05 * n, 2) for n in range(1, 13))


@dataclass(frozen=True)
class Trial:
    """One measurement of the search.

    Attributes:
        pruning: the dict with its solved plan; None for the dense model.
        arm: the same in words.
        target: the level that was asked for, 0 for the dense model.
        saved: share of the dense backbone's FLOPs that it saves.
        images: on how many test images.
        accuracy: percent.
        drop: percent points below the dense model on the same images.
        allowed: whether that is within what is allowed.
    """

    pruning: dict[str, Any] | None
    arm: str
    target: float
    saved: float
    images: int
    accuracy: float
    drop: float
    allowed: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Tester(Protocol):
    """What the search asks of a model; `PlanTester` is one."""

    images: int
    shape: tuple[int, int]

    def set(self, pruning: Mapping[str, Any] | None) -> None:
        """Prune by this dict; TargetOutOfReach where its target is."""

    def reduction(self) -> float:
        """Share of the FLOPs that is saved as it is set."""

    def accuracy(self, pruning: Mapping[str, Any] | None, images: int) -> float:
        """Percent under a solved plan."""


def candidate_layers(stages: Sequence[Stage]) -> list[list[int]]:
    """Where to prune, the default of a target first.

    A backbone of one stage after an eighth, a quarter or a half of its layers, or at three places; one of several
    stages where the deepest begins, with and without those after it.
    """
    default = default_layers(stages)
    depth = len(stages[0].layers)
    if len(stages) > 1:
        found = [default, default[:1]]
    else:
        eighth, quarter, half = (max(depth * n // 8 - 1, 0) for n in (1, 2, 4))
        found = [default, [eighth], [half], sorted({quarter, half, max(depth * 6 // 8 - 1, 0)})]
    return [list(layers) for layers in dict.fromkeys(map(tuple, found)) if layers and max(layers) < depth_of(stages)]


def depth_of(stages: Sequence[Stage]) -> int:
    """Layers of all stages."""
    return sum(len(stage.layers) for stage in stages)


def make_arms(
    layers: Sequence[Sequence[int]],
    reductions: Sequence[str],
    restorations: Sequence[str],
    shared: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """`pruning` dicts without a level, the likeliest first.

    Of the restorations only reductions that leave cells without a token make use, and of a score only those that go by
    one: another reduction gets neither.
    """
    arms = []
    for reduction, where in product(reductions, layers):
        needs = REDUCTION.needs_of(reduction)
        kept = {key: value for key, value in shared.items() if 'score' in needs or key not in SCORE_KEYS}
        for restoration in restorations if 'restoration' in needs else (None,):
            own = {} if restoration is None else {'restoration': restoration}
            arms.append({**kept, 'layers': list(where), 'reduction': reduction, **own})
    return arms


def search(
    tester: Tester,
    arms: Sequence[dict[str, Any]],
    max_drop: float,
    subset: int,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Find the cheapest plan, on a part of the test set first and on all of it at the end.

    The first arm is searched by bisection over `LEVELS`. Another arm is tried one level beyond the best so far, and
    goes on while it holds. Then the best plans are tested on the whole set, the cheapest first; one that fails there is
    tried again a level earlier. That a plan which saves more also loses more is taken for granted.

    Args:
        tester: the model.
        arms: from `make_arms`.
        max_drop: percent points that may be lost against the dense model on the same images.
        subset: on how many images plans are compared.
        tell: called with each trial as it is done.

    Returns:
        All trials in their order. The winner is the last one on all images that is allowed: dense if nothing else is.
    """
    trials: list[Trial] = []
    subset = min(subset, tester.images)
    dense = {images: tester.accuracy(None, images) for images in dict.fromkeys((subset, tester.images))}

    def note(trial: Trial) -> Trial:
        trials.append(trial)
        tell(trial)
        return trial

    def measure(arm: dict[str, Any], level: float, images: int) -> Trial | None:
        """None where the level is out of reach for the arm."""
        solved = solve(tester, arm, level)
        if solved is None:
            return None
        saved, accuracy = tester.reduction(), tester.accuracy(solved, images)
        drop = dense[images] - accuracy
        return note(Trial(solved, describe(arm), level, saved, images, accuracy, drop, drop <= max_drop))

    note(Trial(None, 'dense', 0.0, 0.0, subset, dense[subset], 0.0, True))
    deepest = {0: _bisect(lambda level: measure(arms[0], level, subset))}
    for i, arm in enumerate(arms[1:], 1):
        best = max(deepest.values())
        reached = 0.0
        for level in (level for level in LEVELS if level > best):
            trial = measure(arm, level, subset)
            if trial is None or not trial.allowed:
                break
            reached = level
        deepest[i] = reached
    note(Trial(None, 'dense', 0.0, 0.0, tester.images, dense[tester.images], 0.0, True))
    _confirm(deepest, lambda i, level: measure(arms[i], level, tester.images))
    return trials


def solve(tester: Tester, arm: Mapping[str, Any], level: float) -> dict[str, Any] | None:
    """Set an arm to a level; the dict with the plan that this came to, or None where it is out of reach."""
    try:
        tester.set({**arm, 'flops_reduction': level, 'input_shape': tuple(tester.shape)})
    except TargetOutOfReach:
        return None
    plan = tester.backbone.pruner.plan
    return {**arm, 'layers': list(plan.layers), 'keep_ratio': list(plan.keep_ratios)}


def describe(arm: Mapping[str, Any]) -> str:
    """``prune after 5, follow``."""
    said = f'{arm["reduction"]} after {"/".join(map(str, arm["layers"]))}'
    return f'{said}, {arm["restoration"]}' if 'restoration' in arm else said


def winner(trials: Sequence[Trial]) -> Trial:
    """The cheapest plan that is allowed on the whole test set."""
    images = max(trial.images for trial in trials)
    whole = [trial for trial in trials if trial.images == images and trial.allowed]
    return max(whole, key=lambda trial: (trial.saved, trial.accuracy))


def _bisect(measure: Callable[[float], Trial | None]) -> float:
    """The deepest level that is allowed, 0 where none is."""
    low, high = -1, len(LEVELS)
    while high - low > 1:
        middle = (low + high) // 2
        trial = measure(LEVELS[middle])
        low, high = (middle, high) if trial is not None and trial.allowed else (low, middle)
    return LEVELS[low] if low >= 0 else 0.0


def _confirm(deepest: Mapping[int, float], measure: Callable[[int, float], Trial | None]) -> None:
    """Test on all images, from the deepest level down, until a plan holds; of equal levels the earlier arm first."""
    open_levels = {i: level for i, level in deepest.items() if level > 0}
    while open_levels:
        i = max(open_levels, key=lambda n: (open_levels[n], -n))
        trial = measure(i, open_levels[i])
        if trial is not None and trial.allowed:
            return
        earlier = [level for level in LEVELS if level < open_levels[i]]
        open_levels[i] = earlier[-1] if earlier else 0.0
        open_levels = {n: level for n, level in open_levels.items() if level > 0}
