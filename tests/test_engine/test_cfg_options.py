"""--cfg-options: what something reads is set, anything else is refused with the nearest known key."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from mmengine.config import Config

from mmssmprune._command_line import CfgOptionsAction
from mmssmprune.engine.runner_setup import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/plain_mamba'
SEG = CONFIGS / 'plain-mamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py'
DET = CONFIGS / 'plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'


def load(config: Path, options: str) -> Config:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptionsAction)
    return load_config(str(config), parser.parse_args(['--cfg-options', *options.split()]).cfg_options)


TYPING_ERRORS = {
    # at the top
    'modle.backbone.pruning.keep_ratio=0.5': 'did you mean model?',
    'trian_cfg.max_iters=3': 'did you mean train_cfg?',
    'resmue=True': 'did you mean resume?',
    'load_form=a.pth': 'did you mean load_from?',
    'nothing_like_it=1': r'write \+nothing_like_it=',
    'a..b=1': r"no 'a'",
    # in a dict whose reader is known
    'train_cfg.max_itres=3': 'did you mean train_cfg.max_iters?',
    'optim_wrapper.optimzer.lr=1': 'did you mean optim_wrapper.optimizer?',
    'optim_wrapper.optimizer.weight_deacy=1': 'did you mean optim_wrapper.optimizer.weight_decay?',
    'train_dataloader.batch_sise=2': 'did you mean train_dataloader.batch_size?',
    'train_dataloader.sampler.shufle=True': 'did you mean train_dataloader.sampler.shuffle?',
    'train_dataloader.dataset.data_rot=x': 'did you mean train_dataloader.dataset.data_root?',
    'default_hooks.checkpont.interval=3': 'did you mean default_hooks.checkpoint?',
    'default_hooks.checkpoint.intervall=3': 'did you mean default_hooks.checkpoint.interval?',
    'model.bakcbone.pruning.keep_ratio=0.5': 'did you mean model.backbone?',
    'model.backbone.pruning.keep_ration=0.5': 'did you mean model.backbone.pruning.keep_ratio?',
    'model.backbone.pruning.nothing_like_it=1': 'model.backbone.pruning of the config has no',
    'param_scheduler.0.edn=3': 'did you mean param_scheduler.0.end?',
    'randomness.sead=3': 'did you mean randomness.seed?',
    # what mmengine, mmseg and mmdet would take without a word
    'env_cfg.cudnn_benchmrk=True': 'did you mean env_cfg.cudnn_benchmark?',
    'auto_scale_lr.base_batch_sise=16': 'did you mean auto_scale_lr.base_batch_size?',
    'val_evaluator.iou_metric=[mIoU]': 'did you mean val_evaluator.iou_metrics?',
    'model.test_cfg.mdoe=slide': 'did you mean model.test_cfg.mode?',
    # lists and values that hold no keys
    'param_scheduler.7.end=3': 'param_scheduler is a list of 2',
    'param_scheduler.end=3': 'param_scheduler is a list of 2',
    'train_cfg.max_iters.x=5': 'train_cfg.max_iters is 450 in the config, which has no keys',
    'model.backbone.out_indices.0=3': 'which has no keys: set all of it',
    'train_cfg=5': 'train_cfg is a dict in the config',
    'model.backbone=Vim': 'model.backbone is a dict in the config',
    'train_cfg=None train_cfg.max_iters=3': 'sets both train_cfg and train_cfg.max_iters',
}


@pytest.mark.parametrize(('options', 'told'), TYPING_ERRORS.items(), ids=TYPING_ERRORS.keys())
def test_typing_errors_are_refused_with_the_nearest_key(options: str, told: str):
    with pytest.raises(ValueError, match=told):
        load(SEG, options)


def test_typing_errors_in_dicts_of_a_detector():
    for options, told in {
        'model.test_cfg.rcnn.socre_thr=0.1': 'did you mean model.test_cfg.rcnn.score_thr?',
        'model.rpn_head.anchor_generator.scale=[4]': 'did you mean model.rpn_head.anchor_generator.scales?',
        'model.train_cfg.rpn.assigner.pos_iou_th=0.3': 'did you mean model.train_cfg.rpn.assigner.pos_iou_thr?',
    }.items():
        with pytest.raises(ValueError, match=told):
            load(DET, options)


NEW_BUT_KNOWN = [
    *('auto_scale_lr.base_batch_size=16', 'custom_hooks=[]', 'runner_type=FlexibleRunner strategy.type=FSDPStrategy'),
    *('tta_pipeline=[]', 'compile=True', 'find_unused_parameters=True', 'work_dir=elsewhere', 'experiment_name=a'),
    *('train_cfg.val_begin=2', 'randomness.deterministic=True', 'env_cfg.resource_limit=4096'),
    *('optim_wrapper.type=AmpOptimWrapper optim_wrapper.loss_scale=dynamic', 'optim_wrapper.accumulative_counts=2'),
    *('optim_wrapper.paramwise_cfg.norm_decay_mult=0', 'optim_wrapper.optimizer.foreach=False'),
    *('train_dataloader.drop_last=True', 'train_dataloader.dataset.indices=4', 'val_evaluator.collect_device=gpu'),
    *('default_hooks.checkpoint.save_best=mIoU', 'default_hooks.early.type=EarlyStoppingHook'),
    *('model.backbone.drop_path_rate=0.2', 'model.test_cfg.mode=slide model.test_cfg.stride=(32,32)'),
    *('model.auxiliary_head.type=FCNHead model.auxiliary_head.channels=8', 'model.backbone.with_cp=True'),
    *('model.backbone.pruning.equal_steps=True', 'model.backbone.pruning.flops_reduction=0.3'),
]


@pytest.mark.parametrize('options', NEW_BUT_KNOWN)
def test_keys_that_the_config_lacks_but_something_reads_are_set(options: str):
    cfg = load(SEG, options)
    key, _, value = options.split()[0].partition('=')
    assert str(cfg.get(key) if '.' not in key else _get(cfg, key)) == value


def _get(cfg: Config, key: str) -> object:
    node = cfg
    for name in key.split('.'):
        node = node[name]
    return node


def test_a_plus_sets_any_key():
    cfg = load(SEG, '+my.own.key=3 +model.test_cfg.mdoe=slide train_cfg.max_iters=7')
    assert (cfg.my.own.key, cfg.model.test_cfg.mdoe, cfg.train_cfg.max_iters) == (3, 'slide', 7)


def test_a_variable_of_the_config_file_is_named_as_such(capfd: pytest.CaptureFixture):
    assert load(SEG, 'max_iters=4').train_cfg.max_iters == 450
    assert '--cfg-options max_iters: this is a variable of the config file' in ''.join(capfd.readouterr())


@pytest.mark.parametrize('pair', ['train_cfg.max_iters', '=3', 'train_cfg.x=[1,(2]', 'train_cfg.x=[1,2'])
def test_what_is_no_pair_ends_with_the_usage(pair: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        load(SEG, pair)
    assert end.value.code == 2
    assert '--cfg-options' in capsys.readouterr().err.splitlines()[-1]
