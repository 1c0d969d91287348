"""An mmengine Runner that writes checkpoints whole and loads only those that fit."""

from __future__ import annotations

import os
from typing import Any

from mmengine.dist import master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner

from mmssmprune._stack import make_torchvision_importable

from .checkpoint import (
    check_state_dict,
    extract_state_dict,
    fit_position_embeddings,
    read_checkpoint,
    training_state_allowed,
)


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """mmengine's Runner with two differences, both about checkpoints.

    - A checkpoint gets its name only once it is whole, so ``kill -9`` in the middle of a save leaves the previous one
      in place and at worst a ``*.part`` file, which the next save at that iteration replaces.
    - A checkpoint of another architecture is refused by name instead of being loaded as far as its keys go. Neck and
      heads have to fit in a test or a resumed training; ``load_from`` in training asks it of the backbone only.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        make_torchvision_importable()  # mmengine logs its version at the start
        super().__init__(*args, **kwargs)
        self.register_hook(_CheckStateDictHook())

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's; on a local disk through a temporary name."""
        if not isinstance(get_file_backend(out_dir, backend_args=kwargs.get('backend_args')), LocalBackend):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        part = f'{filename}.part'
        super().save_checkpoint(out_dir, part, *args, **kwargs)
        os.replace(os.path.join(out_dir, part), os.path.join(out_dir, filename))

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As mmengine's, after a look at the file; the weights are compared before any is copied."""
        # mmengine reads a file that torch refuses without its care; this refuses it first, and keeps no values.
        read_checkpoint(filename, map_location='meta')
        self.checkpoint_being_loaded = filename
        with training_state_allowed():
            return super().load_checkpoint(filename, *args, **kwargs)


class _CheckStateDictHook(Hook):
    """Compares a checkpoint with the model before other hooks (EMA) and the model take anything from it."""

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: CheckedRunner, checkpoint: dict[str, Any]) -> None:
        path = runner.checkpoint_being_loaded
        state_dict = extract_state_dict(checkpoint, path)
        # train() turns the loop's config into the loop before it loads anything.
        fine_tunes = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        fit_position_embeddings(runner.model, state_dict, path, resumes=runner._resume)
        check_state_dict(runner.model, state_dict, path, heads_too=not fine_tunes)
