"""An mmengine Runner that writes checkpoints whole, loads only those that fit, and has its work_dir to itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmssmprune._stack import make_torchvision_importable
from mmssmprune.checkpoints.keys import extract_state_dict, unwrap
from mmssmprune.checkpoints.loading import check_state_dict
from mmssmprune.checkpoints.official import ConversionReport, convert_to_ours, is_official_classifier
from mmssmprune.checkpoints.resuming import USE_LOAD_FROM, check_training_state, find_resume_checkpoint
from mmssmprune.checkpoints.writing import in_training, sole_training, written_whole

from .training_guards import (
    CarefulCheckpointHook,
    StopWhenDivergedHook,
    ValidateOnResumeHook,
    diverged,
    weights_fault,
)


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """mmengine's Runner with these differences.

    - A checkpoint gets its name only once it is whole and finite, so ``kill -9`` in the middle of a save leaves the
      previous one in place and at worst a ``*.part`` file, which the next training in the work_dir removes. A training
      that diverges stops instead of being saved.
    - A checkpoint of another architecture is refused by name instead of being loaded as far as its keys go. Neck and
      heads have to fit in a test or a resumed training; ``load_from`` in training asks it of the backbone only.
    - A training is resumed from the work_dir's own files, and only with all of its state; a validation that was due
      where it was killed is made up for.
    - A second training in the same work_dir is refused.
    - Of several processes that test, one writes what they measured.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        make_torchvision_importable()  # mmengine logs its version at the start
        super().__init__(*args, **kwargs)
        self._resumes: dict[str, bool] | None = None
        for hook in (_CheckStateDictHook(), StopWhenDivergedHook(), ValidateOnResumeHook()):
            self.register_hook(hook)

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """As mmengine's; its CheckpointHook and LoggerHook become those that stand in for them here."""
        if isinstance(hook, Mapping):
            for old, new in ((CheckpointHook, CarefulCheckpointHook), (LoggerHook, OneFileLoggerHook)):
                if hook.get('type') in (old, old.__name__, f'mmengine.{old.__name__}'):
                    hook = {**hook, 'type': new}
        super().register_hook(hook, priority)

    def train(self) -> nn.Module:
        """As mmengine's.

        Raises:
            ValueError: in every process, if another training holds the work_dir.
        """
        refusal = [None]
        with ExitStack() as held:
            if is_main_process():
                try:
                    held.enter_context(sole_training(self.work_dir))
                except ValueError as error:
                    refusal = [str(error)]
            broadcast_object_list(refusal)
            if refusal[0] is not None:
                raise ValueError(refusal[0])
            return super().train()

    def dump_config(self) -> None:
        """As mmengine's; a test beside a training, or a second one, leaves the training's own config alone."""
        if not in_training(self.work_dir):
            super().dump_config()

    def load_or_resume(self) -> None:
        """As mmengine's; ``resume=True`` alone means what ``--resume`` does."""
        if self._resume and self._load_from is None and not self._has_loaded:
            self._load_from = find_resume_checkpoint(self.work_dir)
            self._resume = self._load_from is not None
        super().load_or_resume()

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'default',
    ) -> None:
        """As mmengine's, after a look at whether the checkpoint holds a training's state that fits the config's.

        Raises:
            ValueError: It does not.
        """
        schedulers = resume_param_scheduler and self.param_schedulers is not None
        self._resumes = dict(optimizer=resume_optimizer, schedulers=schedulers)
        try:
            super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
        except ValueError as error:
            if 'loaded state dict' not in str(error):
                raise
            fault = str(error)
        else:
            return
        finally:
            self._resumes = None
        raise ValueError(
            f'checkpoint {filename} comes from a training with another optimizer ({fault}); {USE_LOAD_FROM}'
        )

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's; on a local disk through a temporary name.

        Raises:
            RuntimeError: The weights are not finite.
        """
        fault = weights_fault(self)
        if fault is not None:
            raise diverged(fault, self)
        if not is_main_process():
            return
        if not isinstance(get_file_backend(out_dir, backend_args=kwargs.get('backend_args')), LocalBackend):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        with written_whole(os.path.join(out_dir, filename)) as part:
            super().save_checkpoint(out_dir, os.path.basename(part), *args, **kwargs)

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As mmengine's; the weights are compared before any is copied."""
        self.checkpoint_being_loaded = filename
        return super().load_checkpoint(filename, *args, **kwargs)


class OneFileLoggerHook(LoggerHook):
    """mmengine's LoggerHook, in which every process writes the metrics of a test to the same file at once."""

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        super().after_test_epoch(runner, metrics)


class _CheckStateDictHook(Hook):
    """Compares a checkpoint with the model before other hooks (EMA) and the model take anything from it."""

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: CheckedRunner, checkpoint: dict[str, Any]) -> None:
        path = runner.checkpoint_being_loaded
        if is_official_classifier(checkpoint):
            report = ConversionReport(path, '', 'official to mmssmprune')
            checkpoint['state_dict'] = convert_to_ours(checkpoint, report, unwrap(runner.model))
            for sentence in report.cautions:
                runner.logger.warning(f'{path}: {sentence}')
        state_dict = extract_state_dict(checkpoint, path)
        # train() turns the loop's config into the loop before it loads anything.
        fine_tunes = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        check_state_dict(runner.model, state_dict, path, heads_too=not fine_tunes, resumes=runner._resume)
        if runner._resumes is not None:
            check_training_state(runner, checkpoint, path, **runner._resumes)
