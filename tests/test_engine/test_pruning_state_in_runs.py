"""Checkpoints of earlier versions in trainings, and what the log of a test says of untrained choices."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine_state import forget_earlier_runs
from older_files import older
from tiny_training import backbone_cfg, build, make_runner, segmentor_cfg

PRUNING = dict(layers=[1], keep_ratio=0.5, restoration='mask_token')


def save(path: Path, content: dict) -> str:
    torch.save(content, path)
    return str(path)


# Seconds, because only a training has averages and an optimizer.
def test_trainings_of_older_names_go_on_and_start_others(tmp_path: Path):
    """Averages of EMA and moments of AdamW stay with their parameters."""
    hooks, backbone = [dict(type='EMAHook', momentum=0.5)], backbone_cfg(pruning=PRUNING)
    unvalidated = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)

    def train(name: str, **options: object) -> dict:
        forget_earlier_runs()
        make_runner(tmp_path / name, hooks, backbone, **unvalidated, **options).train()
        return torch.load(tmp_path / name / 'iter_6.pth', weights_only=False)

    whole = train('whole')
    half = torch.load(tmp_path / 'whole' / 'iter_3.pth', weights_only=False)
    renamed = {entry: older(half[entry]) for entry in ('state_dict', 'ema_state_dict')}
    resumed = train('resumed', load_from=save(tmp_path / 'old.pth', half | renamed), resume=True)
    for entry in renamed:
        for name, value in whole[entry].items():
            torch.testing.assert_close(resumed[entry][name], value, rtol=0, atol=0, msg=name)

    renamed['state_dict']['backbone.pruner.mask_token'].fill_(7)
    forget_earlier_runs()
    runner = make_runner(tmp_path / 'other', hooks, backbone)
    runner.call_hook('before_run')  # in which EMA makes its copy
    runner.load_checkpoint(save(tmp_path / 'start.pth', {'state_dict': renamed['state_dict']}))
    ema = next(hook.ema_model.module for hook in runner.hooks if hasattr(hook, 'ema_model'))
    for model in (runner.model, ema):
        assert (model.backbone.pruner.stages[0].restoration.mask_token == 7).all()


def test_a_test_run_says_it_in_its_log(tmp_path: Path):
    dense = build(segmentor_cfg(backbone_cfg()))
    path = save(tmp_path / 'dense.pth', {'state_dict': dense.state_dict()})
    loader = dict(batch_size=2, num_workers=0, dataset=dict(type='InMemoryScenes', boxes=False))
    loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
    test = dict(test_dataloader=loader, test_evaluator=dict(type='IoUMetric'), test_cfg=dict(type='TestLoop'))
    make_runner(tmp_path / 'work', [], backbone_cfg(pruning=PRUNING), load_from=path, **test).test()
    (log,) = (tmp_path / 'work').rglob('*.log')
    absent = 'backbone.pruner.stages.0.restoration.mask_token'
    assert f"checkpoint {path} has no {absent}: pruning.restoration 'mask_token' starts untrained" in log.read_text()
