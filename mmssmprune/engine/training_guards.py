"""Hooks of every training: it stops once it diverges, loses no checkpoint over a save, and validates what it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook, LoggerHook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn

from mmssmprune.checkpoints.keys import unwrap
from mmssmprune.checkpoints.reading import first_non_finite
from mmssmprune.checkpoints.writing import written_whole

# Under a loss scaler, steps with infinite gradients are skipped and the scale halved: so often it cannot help any more.
_SKIPS_ALLOWED = 50


class StopWhenDivergedHook(Hook):
    """Stop a training whose loss or weights are no longer finite, before anything of it is saved or validated.

    The loss is looked at where the log shows it, and the weights (those of EMA and the statistics of BatchNorm too)
    before a validation and a save: between them nothing waits for the GPU. All processes stop together.
    """

    priority = 'NORMAL'  # before LoggerHook and CheckpointHook

    def __init__(self) -> None:
        self.bad_steps: Tensor | None = None  # how many losses in a row were not finite, on the loss's own device

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        loss = outputs.get('loss') if isinstance(outputs, dict) else None
        if loss is not None:
            bad = ~torch.as_tensor(loss).detach().isfinite().all()
            self.bad_steps = bad.int() if self.bad_steps is None else (self.bad_steps + 1) * bad
        interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 10)
        if self.every_n_train_iters(runner, interval) or self.is_last_train_iter(runner):
            _stop_all_if(self.loss_fault(runner), runner)

    def before_val_epoch(self, runner: Runner) -> None:
        if isinstance(runner._train_loop, BaseLoop):
            self.stop_if_diverged(runner)

    def stop_if_diverged(self, runner: Runner) -> None:
        """Look at loss and weights; every process has to call it.

        Raises:
            RuntimeError: in all processes, if one of them has found something.
        """
        _stop_all_if(self.loss_fault(runner) or weights_fault(runner), runner)

    def loss_fault(self, runner: Runner) -> str | None:
        allowed = _SKIPS_ALLOWED if hasattr(runner.optim_wrapper, 'loss_scaler') else 0
        return 'the loss is' if self.bad_steps is not None and int(self.bad_steps) > allowed else None


def weights_fault(runner: Runner) -> str | None:
    """The beginning of a sentence on the first weight of this process that is not finite, or None."""
    models: list[nn.Module] = [runner.model]
    models += [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model')]
    names = (first_non_finite(unwrap(model).state_dict()) for model in models)
    return next((f'{name} (and maybe more) of the weights is' for name in names if name is not None), None)


def diverged(fault: str, runner: Runner) -> RuntimeError:
    """The error that stops a training."""
    return RuntimeError(
        f'training stopped at iteration {runner.iter + 1}: {fault} not finite, so nothing more is saved; what '
        f'{runner.work_dir} holds is from before. Train with a lower learning rate (optim_wrapper.optimizer.lr), with '
        'optim_wrapper.clip_grad or a longer warm-up; if that does not help, look at the data'
    )


def _stop_all_if(fault: str | None, runner: Runner) -> None:
    fault = next(filter(None, all_gather_object(fault)), None)
    if fault is not None:
        raise diverged(fault, runner)


class CarefulCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which removes the oldest checkpoint before the new one is there, with more care.

    - The oldest checkpoint goes after the new one is written, so that a kill, a full disk or a diverged training in
      between loses nothing.
    - In a copied work_dir it replaces the best checkpoint there, not the one in the folder that was copied.
    """

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if not getattr(runner, '_resume', False):
            return
        # A validation that is made up for on resuming may have to store its score in the checkpoint resumed from.
        self.last_ckpt = self.file_backend.join_path(self.out_dir, Path(runner._load_from or '').name)
        keys = self.key_indicators if self.save_best is not None else []
        for key in keys:
            name = 'best_ckpt' if len(keys) == 1 else f'best_ckpt_{key}'
            if runner.message_hub.runtime_info.get(name):
                own = self.file_backend.join_path(self.out_dir, Path(runner.message_hub.get_info(name)).name)
                runner.message_hub.update_info(name, own)
                if len(keys) == 1:
                    self.best_ckpt_path = own
                else:
                    self.best_ckpt_path_dict[key] = own

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        for hook in runner.hooks:
            if isinstance(hook, StopWhenDivergedHook):
                hook.stop_if_diverged(runner)
        full = self.max_keep_ckpts > 0 and len(self.keep_ckpt_ids) == self.max_keep_ckpts
        oldest = self.keep_ckpt_ids.popleft() if full and self.keep_ckpt_ids[-1] != step else None
        super()._save_checkpoint_with_step(runner, step, meta)
        if oldest is not None and is_main_process():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(oldest))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)


class ValidateOnResumeHook(Hook):
    """Make up for a validation that a kill prevented: one that was due at the iteration that is resumed from.

    The file ``validated`` beside the checkpoints lists the iterations after which a training was validated.
    """

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        done: set[int] = set()
        if runner.iter:
            done = _validated(runner.work_dir) | _validated(Path(runner._load_from or runner.work_dir).parent)
            done = {iteration for iteration in done if iteration <= runner.iter}
        if is_main_process():
            _note_validated(runner.work_dir, done)
        missing = [runner.iter > 0 and _validation_is_due(runner) and runner.iter not in done]
        broadcast_object_list(missing)  # not every node has to see the same work_dir
        if missing[0]:
            print_log(f'No validation after iteration {runner.iter} is on record; doing it now', 'current')
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if isinstance(runner._train_loop, BaseLoop) and is_main_process():
            _note_validated(runner.work_dir, _validated(runner.work_dir) | {runner.iter})


def _validation_is_due(runner: Runner) -> bool:
    """Whether the train loop validates after the iteration or epoch that it stands at, as mmengine's loops decide."""
    loop = runner.train_loop
    by_iteration = isinstance(loop, IterBasedTrainLoop)
    if runner.val_loop is None or not hasattr(loop, 'val_interval'):
        return False
    loop._decide_current_val_interval()
    at, end = (loop.iter, loop.max_iters) if by_iteration else (loop.epoch, loop.max_epochs)
    return at >= loop.val_begin and (at % loop.val_interval == 0 or at == end)


def _validated(folder: str | Path) -> set[int]:
    path = Path(folder) / 'validated'
    return {int(word) for word in path.read_text().split() if word.isdigit()} if path.is_file() else set()


def _note_validated(folder: str | Path, iterations: set[int]) -> None:
    path = Path(folder) / 'validated'
    if iterations or path.is_file():
        with written_whole(path) as part:
            Path(part).write_text(' '.join(map(str, sorted(iterations))) + '\n')
