"""The search finds the cheapest plan that holds on the whole test set, with few tests."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from PIL import Image
from tiny_backbones import MAKERS, make

from mmssmprune.analysis.plan_search.report import write_search
from mmssmprune.analysis.plan_search.search import LEVELS, Trial, candidate_layers, make_arms, search, winner
from mmssmprune.models.plan_target import TargetOutOfReach


class Curve:
    """A model whose loss is a function of arm, level and number of images: what the search asks, without tests."""

    images, shape = 100, (64, 64)

    def __init__(self, loss, reach: float = 1.0) -> None:
        self.loss, self.reach, self.tested = loss, reach, []
        self.backbone = SimpleNamespace(pruner=SimpleNamespace(plan=None))

    def set(self, pruning: dict) -> None:
        self.level = pruning['flops_reduction']
        if self.level > self.reach:
            raise TargetOutOfReach('out of reach')
        self.backbone.pruner.plan = SimpleNamespace(layers=tuple(pruning['layers']), keep_ratios=(1 - self.level,))

    def reduction(self) -> float:
        return self.level

    def accuracy(self, pruning: dict | None, images: int) -> float:
        self.tested.append((pruning and pruning['reduction'], self.level if pruning else 0.0, images))
        return 50.0 - (0.0 if pruning is None else self.loss(pruning['reduction'], self.level, images))


ARMS = [dict(layers=[1], reduction=name) for name in ('first', 'second', 'third')]


@pytest.mark.parametrize('limit', [0.0, *LEVELS, 0.9])
def test_one_arm_ends_at_the_deepest_level_that_holds(limit: float):
    curve = Curve(lambda arm, level, images: 0.0 if level <= limit else 1.0)
    best = winner(search(curve, ARMS[:1], 0.5, 10))
    assert best.target == max([0.0, *(level for level in LEVELS if level <= limit)])
    assert (best.pruning is None) == (limit == 0.0)
    assert len([1 for _, level, images in curve.tested if level and images == 10]) <= 4


def test_an_arm_that_cannot_win_costs_one_test():
    deepest = {'first': 0.3, 'second': 0.2, 'third': 0.45}
    curve = Curve(lambda arm, level, images: float(level > deepest[arm]))
    best = winner(search(curve, ARMS, 0.5, 10))
    assert (best.pruning['reduction'], best.target) == ('third', 0.45)
    assert [t for t in curve.tested if t[0] == 'second'] == [('second', 0.35, 10)]


def test_a_plan_that_fails_on_all_images_gives_way_to_the_next():
    """On the part all hold to 0.5; on all images the deepest one only to 0.2, the other to 0.35."""
    part, whole = {'first': 0.5, 'second': 0.35, 'third': 0.0}, {'first': 0.2, 'second': 0.35, 'third': 0.0}
    curve = Curve(lambda arm, level, images: float(level > (part if images == 10 else whole)[arm]))
    trials = search(curve, ARMS, 0.5, 10)
    best = winner(trials)
    assert (best.pruning['reduction'], best.target, best.images) == ('first', 0.2, 100)
    assert all(trial.images == 10 for trial in trials[: trials.index(next(t for t in trials if t.images == 100))])


def test_what_is_out_of_reach_and_a_dense_winner():
    assert winner(search(Curve(lambda *_: 0.0, reach=0.32), ARMS, 0.5, 10)).target == 0.3
    trials = search(Curve(lambda *_: 2.0), ARMS, 0.5, 10)
    assert winner(trials).pruning is None
    assert winner(search(Curve(lambda *_: 0.0), ARMS[:1], 0.0, 1000)).target == LEVELS[-1]


@pytest.mark.parametrize('kind', MAKERS)
def test_candidates_can_be_pruned_at(kind: str):
    model = make(kind)
    found = candidate_layers(model.stages)
    assert len(set(map(tuple, found))) == len(found) >= 1
    for layers in found:
        model.set_pruning(dict(layers=layers, keep_ratio=0.5))


def test_arms_have_what_their_reduction_makes_use_of():
    reductions, restorations = ['prune', 'merge_neighbours', 'merge'], ['follow', 'hold']
    arms = make_arms([[5], [2]], reductions, restorations, dict(alignment='bias', importance='l1', unit=(2, 2)))
    assert len(arms) == 10
    shared = dict(alignment='bias', importance='l1', unit=(2, 2))
    assert arms[0] == shared | dict(layers=[5], reduction='prune', restoration='follow')
    assert arms[4] == dict(alignment='bias', layers=[5], reduction='merge_neighbours', restoration='follow')
    assert arms[-1] == dict(alignment='bias', layers=[2], reduction='merge')
    model = make('vim_seg')
    for arm in arms:
        model.set_pruning(arm | dict(keep_ratio=0.5, layers=[0]))


@pytest.mark.parametrize('own', ['', 'pruning=None', 'pruning=dict(flops_reduction=0.1, layers=[7])'])
def test_the_trace_is_written_and_the_winner_is_a_config(own: str, tmp_path: Path):
    pruning = dict(layers=[1], reduction='prune', restoration='hold', keep_ratio=[0.25])
    trials = [
        Trial(None, 'dense', 0.0, 0.0, 150, 61.0, 0.0, True),
        Trial(pruning, 'prune after 1, hold', 0.3, 0.31, 150, 60.7, 0.3, True),
    ]
    base = tmp_path / 'a.py'
    base.write_text(f"model = dict(backbone=dict(type='Vim', {own}))\n")
    names = write_search(trials, tmp_path / 'out', base, {'metric': 'mIoU', 'max drop': 0.5}, bool(own))
    assert {path.name for path in (tmp_path / 'out').iterdir()} == set(names)
    assert Config.fromfile(tmp_path / 'out/a-searched.py').model.backbone.pruning.to_dict() == pruning
    page = (tmp_path / 'out/search.md').read_text()
    assert 'saves 31.0 % of the backbone FLOPs and loses 0.30 mIoU (60.70, all 150 test images)' in page
    assert '| 2 | prune after 1, hold | 0.25 | 31.0 | 150 | 60.70 | 0.30 | yes |' in page
    assert len(json.loads((tmp_path / 'out/search.json').read_text())['trials']) == 2
    assert Image.open(tmp_path / 'out/search.png').size[0] > 400
