"""Pictures of tokens in a real training: how many, where, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch
from mmengine.registry import HOOKS
from mmengine_state import forget_earlier_runs
from tiny_training import LAYERS, backbone_cfg, make_runner

from mmssmprune.analysis import TokenVisualizationHook

PRUNED = backbone_cfg(pruning=dict(layers=LAYERS, keep_ratio=0.6, importance='random'))
HOOK = dict(type='TokenVisualizationHook', interval=3)


def pictures(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.rglob('vis_image/*.png'))


def test_every_third_image_of_each_validation_and_no_other_change(tmp_path: Path):
    results = []
    for name, hooks in (('without', []), ('with', [HOOK])):
        forget_earlier_runs()
        runner = make_runner(tmp_path / name, hooks, PRUNED)
        runner.train()
        logged = {key: list(value.data[0]) for key, value in runner.message_hub.log_scalars.items() if 'mIoU' in key}
        results.append((runner.model.state_dict(), logged))
    (weights, metrics), (weights_with, metrics_with) = results
    assert metrics == metrics_with and metrics
    assert all(torch.equal(value, weights_with[name]) for name, value in weights.items())
    assert pictures(tmp_path / 'without') == []
    # Four images, validated after iterations 3 and 6.
    expected = [f'tokens_{image:05d}_{step}.png' for image in (0, 3) for step in (3, 6)]
    assert pictures(tmp_path / 'with') == expected
    shapes = {cv2.imread(str(path)).shape for path in (tmp_path / 'with').rglob('vis_image/*.png')}
    assert len(shapes) == 1 and shapes.pop()[1] == 1792


def test_no_more_than_max_images_and_only_on_the_main_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runner = make_runner(tmp_path / 'few', [dict(HOOK, interval=1, max_images=1)], PRUNED)
    runner.val()
    assert pictures(tmp_path / 'few') == ['tokens_00000_0.png']
    forget_earlier_runs()
    monkeypatch.setattr('mmssmprune.analysis.token_pictures.hook.is_main_process', lambda: False)
    runner = make_runner(tmp_path / 'other_rank', [dict(HOOK, interval=1)], PRUNED)
    runner.val()
    assert pictures(tmp_path / 'other_rank') == []


def test_the_model_runs_only_where_it_is_drawn(tmp_path: Path):
    runner = make_runner(tmp_path / 'cheap', [dict(HOOK, interval=4)], PRUNED)
    batches = []
    runner.model.backbone.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    runner.val()
    assert batches == [2, 1, 1, 2]  # one image again, pruned and dense, after the first of two batches


def test_tensorboard_gets_the_picture(tmp_path: Path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])
    runner = make_runner(tmp_path / 'board', [dict(HOOK, max_images=1)], PRUNED, visualizer=backends)
    runner.val()
    runner.visualizer.close()
    (events,) = (tmp_path / 'board').rglob('events.out.tfevents.*')
    assert EventAccumulator(str(events.parent)).Reload().Tags()['images'] == ['tokens_00000']


def test_a_dense_model_is_refused_before_it_runs(tmp_path: Path):
    runner = make_runner(tmp_path / 'dense', [HOOK], backbone_cfg())
    with pytest.raises(ValueError, match='no pruned backbone'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('wrong', [dict(interval=0), dict(interval=2.5), dict(max_images=True), dict(max_images=-1)])
def test_wrong_numbers_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=f'{next(iter(wrong))} must be a whole number above 0'):
        TokenVisualizationHook(**wrong)
    assert HOOKS.get('TokenVisualizationHook') is TokenVisualizationHook
