"""What `test_two_processes.py` has two processes do: `python -m torch.distributed.run ... two_processes.py FOLDER`.

Every rank trains each of TRAININGS and saves what it saw and has in the end to FOLDER/rank<r>.pth.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.structures import PixelData
from mmengine_state import forget_earlier_runs
from tiny_training import InMemoryScenes, backbone_cfg, detector_cfg, make_runner, segmentor_cfg

from mmssmprune.engine.cpu_processes import join_cpu_processes

NO_VALIDATION = dict(val_dataloader=None, val_evaluator=None, val_cfg=None)


@DATASETS.register_module(force=True)
class UnevenScenes(InMemoryScenes):
    """Scenes of 64x64 pixels at even places and of 96x64 at odd ones: unshuffled, the ranks get one kind each."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = super().__getitem__(index)
        if index % 2 == 0:
            return scene
        taller, below = (96, 64), (0, 0, 0, 32)
        sample = scene['data_samples']
        sample.set_metainfo(dict(img_shape=taller, ori_shape=taller))
        if not self.boxes:
            sample.gt_sem_seg = PixelData(data=F.pad(sample.gt_sem_seg.data, below))
        return dict(inputs=F.pad(scene['inputs'], below), data_samples=sample)


@HOOKS.register_module(force=True)
class WitnessHook(Hook):
    """Writes down what each iteration was like on this rank."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.images: list[tuple[int, ...]] = []
        self.ratios: list[float] = []
        self.losses: list[float] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.images.append((len(data_batch['inputs']), *data_batch['inputs'][0].shape[1:]))
        ratios = runner.message_hub.log_scalars.get('train/keep_ratio')
        self.ratios.append(1.0 if ratios is None else float(ratios.current()))
        self.losses.append(float(outputs['loss']))


def model_cfg(backbone: dict[str, Any], boxes: bool) -> dict[str, Any]:
    """A model that takes images of any size and whose head reads both maps: DDP wants a gradient everywhere."""
    if boxes:
        return detector_cfg(backbone)
    model = segmentor_cfg(backbone)
    model['decode_head'].update(in_index=[0, 1], in_channels=[16, 16], input_transform='resize_concat')
    model['data_preprocessor'].update(size=None, size_divisor=32)
    return model


def training(
    name: str, restoration: str = 'flow', *, keep_ratio: float = 0.7, boxes: bool = False, **options: Any
) -> dict[str, Any]:
    """Arguments of `make_runner` for ranks whose images differ in size."""
    pruning = dict(layers=[0, 2], importance='clip', restoration=restoration, keep_ratio=keep_ratio)
    backbone = backbone_cfg(name, pruning=pruning)
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='UnevenScenes', boxes=boxes, count=8),
    )
    options.update(model=model_cfg(backbone, boxes), detector=boxes, train_dataloader=loader)
    return dict(backbone=backbone, **NO_VALIDATION, **options)


def epochs(count: int, **sampler: Any) -> dict[str, Any]:
    """Two epochs of ``count`` images, whose last batches are not full."""
    arguments = training('PlainMamba')
    loader = arguments['train_dataloader']
    loader.update(drop_last=False, dataset=dict(loader['dataset'], count=count))
    loader['sampler'].update(sampler)
    arguments.update(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2), log_processor=dict(by_epoch=True))
    return dict(arguments, default_hooks=dict(logger=dict(type='LoggerHook', interval=1)))


def even_batches(batch_size: int) -> dict[str, Any]:
    """Images of one size in order, a model without BatchNorm: 2 ranks with 1 image are 1 process with 2."""
    arguments = training('Vim', iters=2)
    arguments['model']['decode_head'].update(norm_cfg=None)
    dataset = dict(type='InMemoryScenes', boxes=False, count=4)
    arguments['train_dataloader'].update(batch_size=batch_size, dataset=dataset)
    return arguments


ELASTIC = [dict(type='ElasticKeepRatioHook', keep_ratios=[1.0, 0.8, 0.5, 0.3])]
WARMUP = [dict(type='KeepRatioWarmupHook', end=4)]
TRAININGS: dict[str, dict[str, Any]] = {
    'even batches': even_batches(1),
    'padded epochs': epochs(5),
    'unequal last batches': epochs(7, round_up=False),
    'pruned': training('PlainMamba'),
    'mask token': training('Vim', 'mask_token'),
    'detector': training('PlainMamba', boxes=True),
    'elastic': training('PlainMamba', custom_hooks=ELASTIC),
    'elastic, mask token': training('PlainMamba', 'mask_token', custom_hooks=ELASTIC, find_unused_parameters=True),
    'warm-up': training('Vim', custom_hooks=WARMUP),
}


def train(work_dir: Path, custom_hooks: list[dict] = (), **arguments: Any) -> dict[str, Any]:
    """Train once; returns what the witness saw, the tokens per layer at each image size, and the final state."""
    arguments = {'iters': 4, **arguments}
    runner = make_runner(work_dir, [*custom_hooks, dict(type='WitnessHook')], **arguments)
    runner.train()
    witness = next(hook for hook in runner.hooks if isinstance(hook, WitnessHook))
    model = getattr(runner.model, 'module', runner.model)
    tokens = [model.backbone.tokens_per_layer(image[1:]) for image in witness.images]
    return dict(vars(witness), tokens=tokens, state=model.state_dict())


def main(folder: Path) -> None:
    """Train everything on this rank."""
    torch.set_num_threads(1)
    cfg = Config()
    join_cpu_processes(cfg)
    results = {}
    for name, arguments in TRAININGS.items():
        forget_earlier_runs()
        wrapper = dict(cfg.model_wrapper_cfg)
        wrapper['find_unused_parameters'] = arguments.pop('find_unused_parameters', False)
        options = dict(launcher='pytorch', model_wrapper_cfg=wrapper)
        results[name] = train(folder / name, **arguments, **options)
        print(f'rank {get_rank()}: {name} done', flush=True)
    torch.save(results, folder / f'rank{os.environ["RANK"]}.pth')
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
