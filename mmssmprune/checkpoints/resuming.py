"""Going on with an interrupted training: from which checkpoint, and whether it holds a training that fits."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner

from .reading import is_complete_checkpoint, read_checkpoint

USE_LOAD_FROM = 'to start a new training from its weights, give --cfg-options load_from=PATH instead of --resume'


def find_resume_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint from which an interrupted training in ``work_dir`` goes on, or None.

    The work_dir's own file of the name that mmengine's ``last_checkpoint`` holds, if it is whole; otherwise (the
    process was killed while it wrote) its furthest whole ``iter_*.pth`` or ``epoch_*.pth``; otherwise what
    ``last_checkpoint`` names elsewhere, for a CheckpointHook with an ``out_dir``. A copied work_dir goes on from its
    own files, and dates of files do not matter.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    own = (work_dir / Path(named).name).absolute()  # as mmengine writes it
    if named and _is_usable(own):
        return str(own)
    furthest = [path for kind in ('iter', 'epoch') for path in _furthest_whole(work_dir, kind)]
    if len(furthest) > 1:  # of a training by iterations and one by epochs
        furthest.sort(key=_iteration_inside, reverse=True)
    elsewhere = [Path(named)] if named and _is_usable(Path(named)) else []
    return next((str(path) for path in [*furthest, *elsewhere]), None)


def _furthest_whole(work_dir: Path, kind: str) -> list[Path]:
    numbered = {path: re.fullmatch(rf'{kind}_(\d+)\.pth', path.name) for path in work_dir.glob(f'{kind}_*.pth')}
    saved = sorted((path for path, match in numbered.items() if match), key=lambda path: -int(numbered[path][1]))
    return [path for path in saved if _is_usable(path)][:1]


def _is_usable(path: Path) -> bool:
    whole = is_complete_checkpoint(path)
    if path.is_file() and not whole:
        print_log(f'{path} is cut short or damaged: it is not resumed from', 'current', logging.WARNING)
    return whole


def _iteration_inside(path: Path) -> int:
    try:
        return int(read_checkpoint(str(path), map_location='meta')['meta']['iter'])
    except (ValueError, TypeError, KeyError):
        return -1


def check_training_state(
    runner: Runner, checkpoint: dict[str, Any], path: str, *, optimizer: bool, schedulers: bool
) -> None:
    """Refuse to resume from a checkpoint without a training's state, or with that of a training of another kind.

    Args:
        runner: the training that is to go on.
        checkpoint: what was read from the file ``path``.
        optimizer, schedulers: whether it has to hold theirs.

    Raises:
        ValueError: it cannot be resumed from, and why.
    """
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict) or not {'epoch', 'iter'} <= meta.keys() or 'message_hub' not in checkpoint:
        raise ValueError(f'checkpoint {path} holds weights, but no state of a training to resume; {USE_LOAD_FROM}')
    lacks = [key for key, wanted in (('optimizer', optimizer), ('param_schedulers', schedulers)) if wanted]
    lacks = [key for key in lacks if key not in checkpoint]
    if lacks:
        raise ValueError(
            f'checkpoint {path} was saved without {" and ".join(lacks)}, as best_*.pth files are: a training cannot go '
            f'on from it as it was; resume from an iter_*.pth or epoch_*.pth, or {USE_LOAD_FROM}'
        )
    meta.pop('config', None)  # mmengine would run this text as a Python file, to look for gpu_ids in it
    loop = runner.train_loop
    by_iteration = isinstance(loop, IterBasedTrainLoop)
    at, end, unit = (
        (meta['iter'], loop.max_iters, 'iteration') if by_iteration else (meta['epoch'], loop.max_epochs, 'epoch')
    )
    if at > end:
        raise ValueError(
            f'checkpoint {path} is of {unit} {at}, and the config ends at {end}: raise train_cfg.max_'
            f'{"iters" if by_iteration else "epochs"}, or {USE_LOAD_FROM}'
        )
    if not by_iteration and meta['epoch'] == 0 and meta['iter'] >= len(loop.dataloader):
        raise ValueError(
            f'checkpoint {path} comes from a training by iterations ({meta["iter"]}), and the config trains by epochs; '
            f'{USE_LOAD_FROM}'
        )
    _say_what_differs(runner, checkpoint['message_hub'], path)


def _say_what_differs(runner: Runner, message_hub: Any, path: str) -> None:
    before = message_hub.get('runtime_info', {}) if isinstance(message_hub, Mapping) else {}
    now = dict(max_iters=runner.max_iters, max_epochs=runner.max_epochs)
    differing = [
        f'{key} {before[key]} instead of {value}' for key, value in now.items() if before.get(key, value) != value
    ]
    if differing:
        runner.logger.log(
            logging.WARNING,
            f'{path} comes from a training with {" and ".join(differing)} (another length, data set or batch size): '
            "the learning rate goes on by the checkpoint's own schedule",
        )
