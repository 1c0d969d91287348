"""What a test shows or writes beside its metrics: dumped predictions, drawn images, test-time augmentation."""

from __future__ import annotations

import os
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from .writing import written_whole

_PICKLE_SUFFIXES = ('.pkl', '.pickle')


def dump_predictions(cfg: Config, out: str, test_run: ExitStack) -> None:
    """Prepare ``--out``: a pickle of all predictions (mmdet, mmpretrain), or a folder of label maps as PNG (mmseg).

    Args:
        cfg: the config; its test evaluator will write them.
        out: the pickle or the folder.
        test_run: what ends with the test: a pickle gets its name then, if all went well.

    Raises:
        ValueError: ``out`` is of the wrong kind.
    """
    is_pickle = out.endswith(_PICKLE_SUFFIXES)
    if cfg.default_scope == 'mmseg':
        if is_pickle or Path(out).is_file():
            raise ValueError(f'--out of a segmentation config is a folder for label maps (PNG), not a file like {out}')
        for metric in _metrics(cfg):
            if metric['type'] == 'IoUMetric':
                metric['output_dir'] = out
        return
    if not is_pickle:
        kind = 'detection' if cfg.default_scope == 'mmdet' else 'classification'
        raise ValueError(f'--out of a {kind} config is a pickle file (*.pkl), not {out}')
    part = test_run.enter_context(written_whole(out, suffix=f'.part{Path(out).suffix}'))
    dump = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
    cfg.test_evaluator = [*_metrics(cfg), ConfigDict(type=dump, out_file_path=part)]


def draw_predictions(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Prepare ``--show`` (windows) and ``--show-dir`` (image files).

    Raises:
        ValueError: The config has no visualization hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a visualization hook in the config: '
            'default_hooks=dict(visualization=dict(type="DetVisualizationHook")), or SegVisualizationHook (mmseg), or '
            'VisualizationHook (mmpretrain)'
        )
    if show:
        hook.show, hook.wait_time = True, wait_time
    if cfg.default_scope == 'mmpretrain':
        hook.enable, hook.interval = True, hook.get('interval', 1)
        hook.out_dir = show_dir
        return
    hook.draw = True
    if show_dir and cfg.default_scope == 'mmseg':
        cfg.visualizer.save_dir = show_dir
        hook.setdefault('interval', 1)  # mmseg draws every 50th image otherwise
    elif show_dir:
        # mmdet joins its own work_dir/<time> with this, unless it is absolute.
        hook.test_out_dir = os.path.abspath(show_dir)


def enable_tta(cfg: Config) -> None:
    """Prepare ``--tta``: the config's ``tta_model`` and ``tta_pipeline``; for boxes, else, a horizontal flip.

    Raises:
        ValueError: The config has none and none can be made up.
    """
    if cfg.default_scope == 'mmdet' and 'tta_model' not in cfg:
        _add_flip_tta(cfg)
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError('--tta needs tta_model and tta_pipeline in the config')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    _dataset(cfg).pipeline = cfg.tta_pipeline


def _add_flip_tta(cfg: Config) -> None:
    if 'segm' in str([metric.get('metric') for metric in _metrics(cfg)]):
        raise ValueError('--tta merges boxes only, and this config evaluates masks; mmdet has no merging of masks')
    nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    cfg.tta_model = ConfigDict(type='DetTTAModel', tta_cfg=nms)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    cfg.tta_pipeline = deepcopy(_dataset(cfg).pipeline)
    cfg.tta_pipeline[-1] = ConfigDict(
        type='TestTimeAug', transforms=[flips, [dict(type='PackDetInputs', meta_keys=keys)]]
    )


def _metrics(cfg: Config) -> list[ConfigDict]:
    evaluator = cfg.test_evaluator
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]


def _dataset(cfg: Config) -> ConfigDict:
    """The innermost dataset of the test loader, past wrappers."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset
