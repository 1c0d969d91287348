"""What a test shows or writes beside its metrics: dumped predictions, drawn images, test-time augmentation."""

from __future__ import annotations

import os
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmssmprune.checkpoints.writing import written_whole

_PICKLE_SUFFIXES = ('.pkl', '.pickle')


def dump_predictions(cfg: Config, out: str, test_run: ExitStack) -> None:
    """Prepare ``--out``: a pickle of all predictions (mmdet, mmpretrain), or a folder of label maps as PNG (mmseg).

    Args:
        cfg: the config; its test evaluator will write them.
        out: the pickle or the folder.
        test_run: what ends with the test: a pickle gets its name then, if all went well.

    Raises:
        ValueError: ``out`` is of the wrong kind or cannot be written.
    """
    is_pickle = out.endswith(_PICKLE_SUFFIXES)
    if cfg.default_scope == 'mmseg':
        if is_pickle or Path(out).is_file():
            raise ValueError(f'--out of a segmentation config is a folder for label maps (PNG), not a file like {out}')
        writers = [metric for metric in _metrics(cfg) if 'IoUMetric' in str(metric.get('type'))]
        if not writers:
            raise ValueError('--out of a segmentation config needs an IoUMetric in test_evaluator: it writes the maps')
        _check_writable(Path(out), '--out')
        for metric in writers:
            metric['output_dir'] = out
        return
    if not is_pickle:
        kind = 'detection' if cfg.default_scope == 'mmdet' else 'classification'
        raise ValueError(f'--out of a {kind} config is a pickle file (*.pkl), not {out}')
    if Path(out).is_dir():
        raise ValueError(f'--out {out} is a folder; give the name of a pickle file (*.pkl)')
    _check_writable(Path(out).parent, '--out')
    part = test_run.enter_context(written_whole(out, suffix=f'.part{Path(out).suffix}'))
    dump = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
    cfg.test_evaluator = [*_metrics(cfg), ConfigDict(type=dump, out_file_path=part)]


def draw_predictions(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Prepare ``--show`` (windows) and ``--show-dir`` (image files).

    Raises:
        ValueError: The config has no visualization hook, or ``show_dir`` cannot be written.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a visualization hook in the config: '
            'default_hooks=dict(visualization=dict(type="DetVisualizationHook")), or SegVisualizationHook (mmseg), or '
            'VisualizationHook (mmpretrain)'
        )
    if show_dir:
        _check_writable(Path(show_dir), '--show-dir')
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


def _check_writable(folder: Path, option: str) -> None:
    """Make a folder for what the test writes, before it runs.

    Raises:
        ValueError: It is a file, or cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'{option}: the folder {folder} cannot be made ({error.strerror})') from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f'{option}: no permission to write into the folder {folder}')


def enable_tta(cfg: Config) -> None:
    """Prepare ``--tta``: the config's ``tta_model`` and ``tta_pipeline``; for boxes, else, a horizontal flip.

    Raises:
        ValueError: The config has none and none can be made up, or masks would have to be merged.
    """
    made_up = cfg.default_scope == 'mmdet' and 'tta_model' not in cfg
    if made_up:
        nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        cfg.tta_model = ConfigDict(type='DetTTAModel', tta_cfg=nms)
    if not made_up and ('tta_model' not in cfg or 'tta_pipeline' not in cfg):
        raise ValueError('--tta needs tta_model and tta_pipeline in the config')
    if 'DetTTAModel' in str(cfg.tta_model.get('type')):
        if 'segm' in str([metric.get('metric') for metric in _metrics(cfg)]):
            raise ValueError('--tta merges boxes only, and this config evaluates masks; mmdet has no merging of masks')
        from . import box_tta  # noqa: F401 (registers; imported here because it needs mmdet)

        cfg.tta_model.type = 'BoxTTAModel'
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in _with_pipelines(cfg.test_dataloader.dataset):
        dataset.pipeline = _flipped_too(dataset.pipeline) if made_up else deepcopy(cfg.tta_pipeline)


def _flipped_too(pipeline: list[ConfigDict]) -> list[ConfigDict]:
    """A test pipeline, which ends in packing, that gives each image as it is and mirrored."""
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    packing = [dict(type='PackDetInputs', meta_keys=keys)]
    return [*deepcopy(pipeline[:-1]), ConfigDict(type='TestTimeAug', transforms=[flips, packing])]


def _metrics(cfg: Config) -> list[ConfigDict]:
    evaluator = cfg.test_evaluator
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]


def _with_pipelines(dataset: ConfigDict) -> list[ConfigDict]:
    """The data sets whose pipeline has the last word, inside wrappers: several in a ConcatDataset."""
    if 'pipeline' in dataset or not ('datasets' in dataset or 'dataset' in dataset):
        return [dataset]
    inner = dataset.datasets if 'datasets' in dataset else [dataset.dataset]
    return [found for each in inner for found in _with_pipelines(each)]
