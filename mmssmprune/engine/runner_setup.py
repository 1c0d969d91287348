"""From the arguments of a command line tool to a Runner that is ready to train or test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmssmprune._stack import check_mmpretrain
from mmssmprune.checkpoints.reading import check_checkpoint_file
from mmssmprune.checkpoints.resuming import find_resume_checkpoint
from mmssmprune.datasets import check_data_root
from mmssmprune.pruning.plan import overridden

from .cfg_options import merge_cfg_options
from .cpu_processes import join_cpu_processes
from .loading import read_config
from .run_checks import build_loops, check_numbers
from .runner import CheckedRunner

SUPPORTED_SCOPES = ('mmdet', 'mmseg', 'mmpretrain')


def load_config(path: str, cfg_options: dict[str, Any] | None = None) -> Config:
    """Read a config and apply ``--cfg-options`` to it (`merge_cfg_options` tells which are refused).

    Keys of a `pruning` dict that these set win over those they contradict (see `overridden`): a keep ratio over a
    target, whose layers stay.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no config of a model for mmdet, mmseg or mmpretrain, or an option is one that nothing reads.
        StackError: It is one for mmpretrain, which is not installed or does not fit.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist')
    cfg = read_config(path)
    if cfg_options:
        written = {where: dict(pruning) for where, pruning in _pruning_dicts(cfg.get('model'))}
        merge_cfg_options(cfg, cfg_options)
        for where, pruning in _pruning_dicts(cfg.get('model')):
            wanted = overridden(written.get(where, {}), pruning)
            pruning.clear()
            pruning.update(wanted)
    if 'model' not in cfg:
        raise ValueError(f'config {path} has no model: give one of the configs outside configs/_base_')
    if cfg.get('default_scope') not in SUPPORTED_SCOPES:
        raise ValueError(
            f'config {path} has default_scope {cfg.get("default_scope")!r}; it has to say which suite builds it: '
            f'{" or ".join(map(repr, SUPPORTED_SCOPES))}'
        )
    if cfg.default_scope == 'mmpretrain':
        check_mmpretrain()
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)  # as Runner does, for those who build alone
    return cfg


def _pruning_dicts(node: Any, where: tuple = ()) -> list[tuple[tuple, dict]]:
    """Every `pruning` dict inside a model's config, and the keys that lead there."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    found = []
    for key, child in children:
        if key == 'pruning' and isinstance(child, dict):
            found.append(((*where, key), child))
        else:
            found += _pruning_dicts(child, (*where, key))
    return found


def set_work_dir(cfg: Config, config_path: str, work_dir: str | None = None) -> None:
    """Choose where logs and checkpoints go: the argument, else the config's, else ``./work_dirs/<config name>``."""
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('./work_dirs', Path(config_path).stem)


def set_launcher(cfg: Config, launcher: str, local_rank: int = 0) -> None:
    """Prepare a config for ``--launcher``; torchrun's processes talk through gloo where there is no GPU.

    Raises:
        ValueError: The launcher's environment variables are missing, or it needs GPUs and there are none.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))  # older launchers pass it on the command line
    cfg.launcher = launcher
    if launcher == 'none':
        return
    needed = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK'}[launcher]
    if needed not in os.environ:
        raise ValueError(
            f'--launcher {launcher} finds no {needed} in the environment: start through tools/dist_*.sh (pytorch), '
            'tools/slurm_*.sh (slurm) or mpirun (mpi)'
        )
    if get_device() == 'cpu' and launcher != 'pytorch':
        raise ValueError(f'--launcher {launcher} needs GPUs, and none is visible here; on the CPU use tools/dist_*.sh')
    if get_device() == 'cpu':
        join_cpu_processes(cfg)


def enable_amp(cfg: Config) -> None:
    """Switch to automatic mixed precision with a dynamic loss scale.

    Raises:
        ValueError: There is no GPU, or the optimizer wrapper is of another kind.
    """
    if get_device() == 'cpu':
        raise ValueError('--amp needs a GPU, and none is visible here')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f'--amp works with optim_wrapper.type OptimWrapper, the config has {kind}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by (batch size of this run) / ``auto_scale_lr.base_batch_size``.

    Raises:
        ValueError: The config does not say for which batch size its learning rate was chosen.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ValueError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config')
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str | None) -> None:
    """Prepare ``--resume``: None leaves the config as it is, 'auto' looks in the work_dir, else it is a checkpoint.

    With 'auto' and nothing to resume, training starts as it would without ``--resume``.

    Raises:
        FileNotFoundError, ValueError: The named checkpoint is missing or cut short.
    """
    if resume is None:
        return
    checkpoint = find_resume_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    if checkpoint is None:
        print_log(f'--resume: no whole checkpoint in {cfg.work_dir}, training starts from the beginning', 'current')
        cfg.resume = False
        return
    check_checkpoint_file(checkpoint)
    cfg.resume, cfg.load_from = True, checkpoint


def build_runner(cfg: Config, mode: Literal['train', 'test']) -> Runner:
    """Check what the run needs, then build its Runner with data sets, evaluators and optimizer.

    Args:
        cfg: A config with ``work_dir``; ``load_from`` is the checkpoint to test, or to start from.
        mode: 'train' asks for the data of training and validation and for pretrained weights, 'test' for test data.

    Returns:
        A ``CheckedRunner``, or what the config's ``runner_type`` names.

    Raises:
        FileNotFoundError, ValueError: Data or a checkpoint is missing or damaged, a data set is empty or of more
            classes than the model, or a number of the config makes no sense.
    """
    splits = ('train', 'val') if mode == 'train' else ('test',)
    check_numbers(cfg, splits)
    check_data_root(cfg, tuple(f'{split}_dataloader' for split in splits))
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from)
    if mode == 'train':
        _check_pretrained_files(cfg.model)
    if not cfg.get(f'{mode}_dataloader') or cfg.get(f'{mode}_cfg') is None:
        raise ValueError(f'the config cannot be used to {mode}: it has no {mode}_dataloader or no {mode}_cfg')
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else CheckedRunner.from_cfg(cfg)
    if isinstance(runner, Runner):
        build_loops(runner, splits)
    return runner


def _check_pretrained_files(part: Any) -> None:
    """Refuse a model config whose ``init_cfg`` names a local file that cannot be loaded."""
    if isinstance(part, (list, tuple)):
        for item in part:
            _check_pretrained_files(item)
    if not isinstance(part, dict):
        return
    if part.get('type') == 'Pretrained' and 'checkpoint' in part:
        try:
            check_checkpoint_file(part['checkpoint'])
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(
                f'{error}; it is named by an init_cfg of the config: fetch it, or start from random weights with '
                '--cfg-options model.backbone.init_cfg=None'
            ) from None
    for value in part.values():
        _check_pretrained_files(value)
