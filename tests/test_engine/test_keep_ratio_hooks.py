"""The keep ratio of every iteration, of every validation, after resuming and after training."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from mmengine.registry import HOOKS
from mmengine_state import forget_earlier_runs
from tiny_training import LAYERS, backbone_cfg, make_runner

from mmssmprune.engine import ElasticKeepRatioHook
from mmssmprune.engine.runner import CheckedRunner

TARGET = (0.6, 0.2)
PRUNING = dict(layers=LAYERS, keep_ratio=list(TARGET))
PRUNED = backbone_cfg(pruning=PRUNING)
WARMUP = dict(type='KeepRatioWarmupHook', begin=1, end=5)
RATIOS = [1.0, 0.8, 0.6, 0.4]
ELASTIC = dict(type='ElasticKeepRatioHook', keep_ratios=RATIOS)

Seen = list[tuple[float, ...]]


def run(runner: CheckedRunner) -> tuple[Seen, Seen]:
    """Train; gives the ratios of every training pass and of every validation pass of the backbone."""
    seen: tuple[Seen, Seen] = ([], [])
    backbone = runner.model.backbone
    backbone.register_forward_pre_hook(lambda b, _: seen[not b.training].append(b.pruner.plan.keep_ratios))
    runner.train()
    return seen


def test_warmup_goes_from_1_to_the_target_and_validates_at_the_target(tmp_path: Path):
    runner = make_runner(tmp_path / 'warmup', [WARMUP], PRUNED)
    training, validation = run(runner)
    expected = [(1, 1), (1, 1), (0.9, 0.8), (0.8, 0.6), (0.7, 0.4), TARGET]
    assert training == [pytest.approx(ratios) for ratios in expected]
    assert training[-1] == TARGET  # without rounding
    assert validation == [TARGET] * 4  # two validations of two batches
    assert runner.model.backbone.pruner.plan.keep_ratios == TARGET
    assert dict(runner.model.backbone.pruning) == PRUNING
    logged = runner.message_hub.get_scalar('train/keep_ratio').data[0]
    assert logged.tolist() == pytest.approx([sum(ratios) / 2 for ratios in expected])


def test_training_that_ends_within_the_warmup_leaves_the_target(tmp_path: Path):
    runner = make_runner(tmp_path / 'short', [dict(WARMUP, end=100)], backbone_cfg(pruning=dict(PRUNING)), iters=1)
    run(runner)
    assert runner.model.backbone.pruner.plan.keep_ratios == TARGET


@pytest.mark.parametrize('hook', [WARMUP, ELASTIC], ids=lambda hook: hook['type'])
def test_resumed_training_sees_the_ratios_of_an_uninterrupted_one(hook: dict, tmp_path: Path):
    whole, _ = run(make_runner(tmp_path / 'whole', [hook], PRUNED))
    forget_earlier_runs()
    start = dict(resume=True, load_from=str(tmp_path / 'whole' / 'iter_3.pth'))
    resumed, validation = run(make_runner(tmp_path / 'resumed', [hook], PRUNED, **start, randomness=dict(seed=None)))
    assert resumed == whole[3:]
    assert validation == [TARGET] * 2


def test_elastic_draws_from_the_list_by_seed_and_iteration(tmp_path: Path):
    runner = make_runner(tmp_path / 'elastic', [ELASTIC], PRUNED)
    training, validation = run(runner)
    hook = ElasticKeepRatioHook(RATIOS)
    assert training == [(hook.draw(3, i),) * 2 for i in range(6)]
    assert len(set(training)) > 1
    assert validation == [TARGET] * 4
    assert runner.model.backbone.pruner.plan.keep_ratios == TARGET


def test_draws_are_uniform_and_differ_between_seeds():
    hook = ElasticKeepRatioHook(RATIOS)
    draws = [hook.draw(0, i) for i in range(2000)]
    assert all(400 < draws.count(ratio) < 600 for ratio in RATIOS)
    assert draws != [hook.draw(1, i) for i in range(2000)]
    assert len(set(pairwise(draws))) == 16  # neighbours do not hang together


def test_elastic_takes_one_ratio_per_layer_and_a_ratio_for_validation(tmp_path: Path):
    hook = dict(ELASTIC, keep_ratios=[[0.9, 0.3]], val_keep_ratio=0.5)
    runner = make_runner(tmp_path / 'lists', [hook], PRUNED, iters=3)
    assert run(runner) == ([(0.9, 0.3)] * 3, [(0.5, 0.5)] * 2)
    assert runner.model.backbone.pruner.plan.keep_ratios == TARGET


def test_ranks_with_seeds_of_their_own_draw_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in ('mmengine.runner.utils', 'mmssmprune.engine.keep_ratio_hooks'):
        monkeypatch.setattr(f'{module}.get_rank', lambda: 1)
    randomness = dict(seed=3, diff_rank_seed=True)
    runner = make_runner(tmp_path / 'rank', [ELASTIC], PRUNED, iters=2, randomness=randomness)
    assert runner.seed == 4
    training, _ = run(runner)
    assert training == [(ElasticKeepRatioHook(RATIOS).draw(3, i),) * 2 for i in range(2)]


def test_a_validation_without_training_is_left_alone(tmp_path: Path):
    runner = make_runner(tmp_path / 'val', [dict(ELASTIC, val_keep_ratio=0.5)], PRUNED)
    seen = []
    runner.model.backbone.register_forward_pre_hook(lambda b, _: seen.append(b.pruner.plan.keep_ratios))
    runner.val()
    assert seen == [TARGET] * 2


@pytest.mark.parametrize(
    ('hooks', 'pruning', 'sentence'),
    [
        ([WARMUP], None, 'no pruned backbone'),
        ([ELASTIC], None, 'no pruned backbone'),
        ([WARMUP, ELASTIC], PRUNING, 'KeepRatioWarmupHook and ElasticKeepRatioHook, which both set the keep ratio'),
        ([dict(ELASTIC, keep_ratios=[0.5, [0.9, 0.8, 0.7]])], PRUNING, '3 values for 2 layers'),
        ([dict(ELASTIC, val_keep_ratio=[0.9])], PRUNING, '1 values for 2 layers'),
    ],
)
def test_refused_before_the_first_iteration(hooks: list, pruning: dict | None, sentence: str, tmp_path: Path):
    runner = make_runner(tmp_path / 'refused', hooks, backbone_cfg(pruning=pruning))
    with pytest.raises(ValueError, match=sentence):
        runner.train()
    assert runner.iter == 0
    assert not list((tmp_path / 'refused').glob('*.pth'))


@pytest.mark.parametrize(
    ('hook', 'sentence'),
    [
        (dict(ELASTIC, keep_ratios=[]), 'must be a list'),
        (dict(ELASTIC, keep_ratios=0.5), 'must be a list'),
        (dict(ELASTIC, keep_ratios=[0.5, 0.0]), 'got 0.0'),
        (dict(ELASTIC, keep_ratios=[0.5, '0.7']), "got '0.7'"),
        (dict(ELASTIC, keep_ratios=[[0.5, 1.2]]), 'got .0.5, 1.2.'),
        (dict(ELASTIC, keep_ratios=[[]]), 'got ..'),
        (dict(ELASTIC, val_keep_ratio=2), 'got 2'),
        (dict(WARMUP, end=1), 'begin < end'),
        (dict(WARMUP, begin=-1), 'begin < end'),
        (dict(WARMUP, end=2.5), 'whole number'),
    ],
)
def test_refused_when_built(hook: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        HOOKS.build(hook)


def test_importing_the_engine_needs_neither_mmdet_nor_mmseg_nor_mmcv():
    code = (
        "import sys, mmssmprune.engine; print({'mmdet', 'mmseg', 'mmcv._ext', 'mmssmprune.models'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == 'set()', done.stderr
