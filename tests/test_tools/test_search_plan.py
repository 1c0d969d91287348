"""tools/search_plan.py on real data files, real models and real evaluators."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from tiny_runs import DET_CONFIG, SEG_CONFIG, write_config

from mmssmprune.analysis.plan_search.tester import PlanTester, spread
from mmssmprune.analysis.tasks import task_of
from mmssmprune.engine.runner_setup import load_config


def saved(config: Path) -> Path:
    """A checkpoint with random weights of a config."""
    cfg = load_config(str(config))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    path = config.with_suffix('.pth')
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, path)
    return path


def test_from_a_checkpoint_to_a_config(seg_data, tool, tmp_path: Path, capfd):
    write_config(tmp_path / 'tiny_seg.py', SEG_CONFIG, seg_data, iters=1)  # whose stem has most of the FLOPs
    config = tmp_path / 'tiny_vim.py'
    vim = dict(_delete_=True, type='Vim', num_layers=4, embed_dims=32, img_size=96)
    config.write_text(f"_base_ = 'tiny_seg.py'\nmodel = dict(backbone={vim})\n")
    arguments = (config, saved(config), '--max-drop', 90, '--images', 2, '--out', tmp_path / 'out')
    arguments += ('--reductions', 'prune', '--restorations', 'hold')
    assert tool('search_plan.py', *arguments) == 0
    told = capfd.readouterr().out
    assert 'saves' in told and 'mIoU' in told
    trace = json.loads((tmp_path / 'out/search.json').read_text())['trials']
    assert {trial['images'] for trial in trace} == {2, 4}
    best = load_config(str(tmp_path / 'out/tiny_vim-searched.py')).model.backbone.pruning
    assert best.to_dict() == trace[-1]['pruning']
    assert trace[-1]['saved'] >= 0.3
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out/results').iterdir()}
    assert tool('search_plan.py', *arguments) == 0  # everything is there
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'out/results').iterdir()} == kept


def test_a_part_of_the_boxes_is_judged_by_its_own_images(det_data, tmp_path: Path):
    """CocoMetric would count the objects of images that were not tested as missed."""
    config = write_config(tmp_path / 'tiny_det.py', DET_CONFIG, det_data, iters=1)
    cfg = load_config(str(config))
    tester = PlanTester(cfg, saved(config), task_of(cfg, 'x'), 'bbox mAP', tmp_path / 'out')
    (metric,) = tester.runner.test_loop.evaluator.metrics
    seen = []
    compute = metric.compute_metrics

    def note(results: list) -> dict:
        seen.append(([truth['img_id'] for truth, _ in results], metric.img_ids))
        return compute(results)

    metric.compute_metrics = note
    for images in (1, 2):
        tester.accuracy(None, images)
    assert seen == [([0], [0]), ([0, 1], [0, 1])]


def test_numbers_spread_over_the_set():
    assert spread(3, 9) == [0, 3, 6]
    assert spread(20, 3) == [0, 1, 2]
    assert spread(2, 5) == [0, 2]


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (('--reductions', 'shrink'), "there is no reduction 'shrink'; the names are"),
        (('--restorations', 'x'), "there is no restoration 'x'"),
        (('--metric', 'PQ'), "--metric is 'PQ'; the metrics of this config are mIoU"),
    ],
)
def test_wrong_words_end_in_a_sentence(seg_data, tool, tmp_path: Path, capfd, options, sentence):
    config = write_config(tmp_path / 'tiny_seg.py', SEG_CONFIG, seg_data, iters=1)
    assert tool('search_plan.py', config, tmp_path / 'none.pth', '--out', tmp_path / 'out', *options) == 2
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / 'out').exists()
