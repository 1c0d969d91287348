"""Hooks that train with changing keep ratios: a linear warm-up, and one drawn anew at every iteration."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmssmprune._values import is_list, is_number, is_whole

KeepRatio = float | Sequence[float]


class _KeepRatioHook(Hook):
    """Base: sets a ratio before each training iteration, and the config's own ratio (the target) for everything else.

    Which ratio is due follows from ``runner.iter`` alone, so a resumed training goes on as an uninterrupted one. The
    log shows it as ``keep_ratio``, averaged over the pruning layers.
    """

    def __init__(self) -> None:
        self._targets: list = []  # empty outside of training
        self._interrupted: list = []

    def before_train(self, runner: Runner) -> None:
        """Take the ratios at hand as targets; raises ValueError for a dense model or a second hook of this kind."""
        from mmssmprune.models.keep_ratio import get_keep_ratios

        setters = [type(hook).__name__ for hook in runner.hooks if isinstance(hook, _KeepRatioHook)]
        if len(setters) > 1:
            raise ValueError(f'custom_hooks holds {" and ".join(setters)}, which both set the keep ratio; leave one')
        self._targets = get_keep_ratios(runner.model)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the ratio that is due, and log it."""
        self._set_training_ratio(runner)
        ratios = [ratio for _, own in self._ratios_at_hand() for ratio in own]
        runner.message_hub.update_scalar('train/keep_ratio', sum(ratios) / max(len(ratios), 1))

    def before_val(self, runner: Runner) -> None:
        """Validate as the config prunes."""
        if self._targets:
            self._interrupted = self._ratios_at_hand()
            self._set_target(runner)

    def after_val(self, runner: Runner) -> None:
        """Go on with the ratio from before the validation."""
        from mmssmprune.models.keep_ratio import restore_keep_ratios

        restore_keep_ratios(self._interrupted)
        self._interrupted = []

    before_test = before_val
    after_test = after_val

    def after_train(self, runner: Runner) -> None:
        """Leave the model as its config says."""
        from mmssmprune.models.keep_ratio import restore_keep_ratios

        restore_keep_ratios(self._targets)
        self._targets = []

    def _ratios_at_hand(self) -> list:
        return [(backbone, backbone.pruner.plan.keep_ratios) for backbone, _ in self._targets]

    def _set_training_ratio(self, runner: Runner) -> None:
        raise NotImplementedError

    def _set_target(self, runner: Runner) -> None:
        from mmssmprune.models.keep_ratio import restore_keep_ratios

        restore_keep_ratios(self._targets)


@HOOKS.register_module()
class KeepRatioWarmupHook(_KeepRatioHook):
    """Start dense and prune more and more: each pruning layer's ratio goes linearly from 1 to its own target.

    Iteration ``begin`` and those before it run at 1, iteration ``end`` and those after it at the target, which is what
    the config says. Validation and test always use the target, and so does the model after training. Iterations are
    counted from 0, also where the schedule counts epochs.

    In distributed training nothing is pruned at first, so parameters of the pruning itself (``mask_token``) have no
    gradient then: such a config needs ``find_unused_parameters=True``.

    Args:
        end: first iteration at the target.
        begin: last iteration at 1.

    Raises:
        ValueError: not 0 <= begin < end; before training also for a dense model or two hooks that set the ratio.
    """

    def __init__(self, end: int, begin: int = 0):
        super().__init__()
        for name, value in (('begin', begin), ('end', end)):
            if not is_whole(value):
                raise ValueError(f'KeepRatioWarmupHook.{name} must be a whole number of iterations, got {value!r}')
        if not 0 <= begin < end:
            raise ValueError(f'KeepRatioWarmupHook needs 0 <= begin < end, got begin={begin} and end={end}')
        self.begin, self.end = int(begin), int(end)

    def _set_training_ratio(self, runner: Runner) -> None:
        share = min(max((runner.iter - self.begin) / (self.end - self.begin), 0.0), 1.0)
        for backbone, target in self._targets:
            # At share 1 this form gives the target itself, without rounding.
            backbone.set_keep_ratio([(1 - share) + share * ratio for ratio in target])


@HOOKS.register_module()
class ElasticKeepRatioHook(_KeepRatioHook):
    """Train one model for many ratios: before each iteration one of them is drawn, each equally likely.

    The draw depends on the seed of the run and the iteration only: it is the same on all ranks without any
    communication, and the same after resuming. Slimmable networks (arXiv 1812.08928) train one set of weights for
    several widths in this spirit; the drawing of one at random is that of HAT (arXiv 2005.14187).

    In distributed training, a 1 in the list and parameters of the pruning itself (``mask_token``) need
    ``find_unused_parameters=True``.

    Args:
        keep_ratios: what is drawn from; each a number in (0, 1], or a list with one per pruning layer.
        val_keep_ratio: ratio of validation and test during training; None means the config's. The model has the
            config's after training in any case.

    Raises:
        ValueError: an empty or wrong list; before training also a list entry of another length than the pruning
            layers, a dense model, or two hooks that set the ratio.
    """

    def __init__(
        self, keep_ratios: Sequence[KeepRatio] = (1.0, 0.8, 0.6, 0.4), val_keep_ratio: KeepRatio | None = None
    ):
        super().__init__()
        if not is_list(keep_ratios) or not len(keep_ratios):
            raise ValueError(
                f'ElasticKeepRatioHook.keep_ratios must be a list such as [1.0, 0.8, 0.6], got {keep_ratios!r}'
            )
        given = list(keep_ratios) if val_keep_ratio is None else [*keep_ratios, val_keep_ratio]
        for ratio in given:
            if not all(map(_is_ratio, ratio if is_list(ratio) and len(ratio) else [ratio])):
                raise ValueError(f'ElasticKeepRatioHook takes keep ratios above 0 and at most 1, got {ratio!r}')
        self.keep_ratios = list(keep_ratios)
        self.val_keep_ratio = val_keep_ratio

    def before_train(self, runner: Runner) -> None:
        """As the base does, and try every ratio on the model."""
        from mmssmprune.models import keep_ratio_set_to

        super().before_train(runner)
        for ratio in [*self.keep_ratios, *([] if self.val_keep_ratio is None else [self.val_keep_ratio])]:
            with keep_ratio_set_to(runner.model, ratio):
                pass

    def draw(self, seed: int, iteration: int) -> KeepRatio:
        """The ratio of an iteration in runs of this seed."""
        return random.Random(f'{seed} {iteration}').choice(self.keep_ratios)

    def _set_training_ratio(self, runner: Runner) -> None:
        from mmssmprune.models import set_keep_ratio

        set_keep_ratio(runner.model, self.draw(_shared_seed(runner), runner.iter))

    def _set_target(self, runner: Runner) -> None:
        from mmssmprune.models import set_keep_ratio

        super()._set_target(runner)
        if self.val_keep_ratio is not None:
            set_keep_ratio(runner.model, self.val_keep_ratio)


def _shared_seed(runner: Runner) -> int:
    """The seed that all ranks share; with ``diff_rank_seed`` mmengine has added the rank to it."""
    return runner.seed - (get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0)


def _is_ratio(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1
