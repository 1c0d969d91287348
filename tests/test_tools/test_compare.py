"""tools/compare.py on tiny real data: what it writes, that it resumes, and how bad input ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tiny_runs import DET_CONFIG, PRUNING, SEG_CONFIG, write_config

Tool = Callable[..., int]
OPTIONS = ('--keep-ratio', '1.0', '0.5', '--runs', '2', '--untrained')


def write_model(config: Path) -> str:
    """A pair config:checkpoint with weights by seed 1, the same for a dense and a pruned config."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    checkpoint = config.with_suffix('.pth')
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, checkpoint)
    return f'{config}:{checkpoint}'


@pytest.fixture(scope='module')
def models(seg_data: Path, det_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp('models')
    templates = {'seg': (SEG_CONFIG, seg_data), 'det': (DET_CONFIG, det_data)}
    return {
        f'{kind}_{task}': write_model(write_config(folder / f'{kind}_{task}.py', *templates[task], pruning=pruning))
        for task in templates
        for kind, pruning in (('dense', None), ('pruned', PRUNING))
    }


@pytest.fixture(scope='module')
def seg_report(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished comparison."""
    return tmp_path_factory.mktemp('seg_report') / 'compare'


def report_of(out: Path) -> dict:
    return json.loads((out / 'compare.json').read_text())


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / 'results').iterdir()}


def runners_started(out: Path) -> int:
    """How many Runners have been at work: each begins a log of its own."""
    return len(list(out.glob('logs/*/*/*.log')))


@pytest.fixture
def compared(models: dict[str, str], seg_report: Path, tool: Tool) -> Path:
    if not seg_report.exists():
        assert tool('compare.py', models['dense_seg'], models['pruned_seg'], *OPTIONS, '--out', seg_report) == 0
    return seg_report


def test_one_table_from_one_command(compared: Path):
    report = report_of(compared)
    (table,) = report['tables']
    dense, whole, half, untrained = table['rows']
    assert [row['kind'] for row in table['rows']] == ['dense', 'pruned', 'pruned', 'untrained']
    assert [row['keep_ratio'] for row in table['rows']] == [1.0, 1.0, 0.5, 1.0]
    assert table['shape'] == [96, 96]
    assert table['num_images'] == 4
    # the same weights at keep ratio 1.0: the same model
    assert dense['accuracy'] == whole['accuracy'] != half['accuracy']
    assert dense['flops'] == whole['flops']
    assert half['flops']['backbone'] < dense['flops']['backbone']
    assert half['flops']['heads'] == dense['flops']['heads']
    assert half['flops']['total'] == sum(half['flops'][part] for part in ('backbone', 'neck', 'heads'))
    # layer 1 of 4 prunes half of the tokens, so two layers run on them
    assert half['tokens'] == {'per_layer': [36, 36, 18, 18], 'mean_share': 0.75}
    assert half['accuracy_difference']['mIoU'] == pytest.approx(half['accuracy']['mIoU'] - dense['accuracy']['mIoU'])
    assert half['backbone_flops_change'] == pytest.approx(half['flops']['backbone'] / dense['flops']['backbone'] - 1)
    assert [len(row['latency']['model']['runs_ms']) for row in (dense, whole, half)] == [2, 2, 2]
    assert half['latency']['backbone']['median_ms'] > 0
    assert 'flops' not in untrained
    assert 0 <= untrained['accuracy']['mIoU'] <= 100
    assert (compared / 'compare.png').read_bytes().startswith(b'\x89PNG')
    assert '| dense_seg | 1.0 | 100.0 |' in (compared / 'compare.md').read_text()


def test_the_second_call_measures_nothing(compared: Path, models: dict[str, str], tool: Tool):
    before, runs, report = stamps(compared), runners_started(compared), report_of(compared)
    assert runs == 3
    assert tool('compare.py', models['dense_seg'], models['pruned_seg'], *OPTIONS, '--out', compared) == 0
    assert stamps(compared) == before
    assert runners_started(compared) == runs
    assert report_of(compared)['tables'] == report['tables']


def test_an_interrupted_comparison_goes_on(compared: Path, models: dict[str, str], tool: Tool, tmp_path: Path):
    out = tmp_path / 'compare'
    shutil.copytree(compared, out)
    before, report = stamps(out), report_of(out)
    lost = next(
        path for path in (out / 'results').glob('accuracy-pruned_seg*') if '"keep_ratio": 0.5' in path.read_text()
    )
    lost.unlink()
    runs = runners_started(out)
    assert tool('compare.py', models['dense_seg'], models['pruned_seg'], *OPTIONS, '--out', out) == 0
    after = stamps(out)
    assert {name for name in after if after[name] != before[name]} == {lost.name}
    assert runners_started(out) == runs + 1
    assert report_of(out)['tables'][0]['rows'][2]['accuracy'] == report['tables'][0]['rows'][2]['accuracy']


def test_changed_weights_are_tested_anew(compared: Path, models: dict[str, str], tool: Tool, tmp_path: Path):
    config, checkpoint = models['pruned_seg'].split(':')
    state = torch.load(checkpoint)
    for value in state['state_dict'].values():
        value.copy_(torch.randn_like(value.float()).abs())
    torch.save(state, tmp_path / 'other.pth')
    out = tmp_path / 'compare'
    shutil.copytree(compared, out)
    before = set(stamps(out))
    pair = f'{config}:{tmp_path / "other.pth"}'
    assert tool('compare.py', models['dense_seg'], pair, *OPTIONS, '--out', out) == 0
    new = sorted(name.split('-')[0] for name in set(stamps(out)) - before)
    # latencies are measured anew for all rows, because they are compared only within one run; costs stay
    assert new == ['accuracy', 'accuracy', 'latency']


def test_two_tasks_give_two_tables_and_nothing_found_is_zero(
    models: dict[str, str], tool: Tool, tmp_path: Path, capsys
):
    out = tmp_path / 'compare'
    targets = (models['dense_seg'], models['pruned_det'], models['dense_det'])
    nothing_found = ('--cfg-options', 'model.test_cfg.score_thr=2.0')
    args = (*targets, '--runs', '0', '--shape', '64', '128', '--out', out, *nothing_found)
    assert tool('compare.py', *args) == 0
    segmentation, detection = report_of(out)['tables']
    assert (segmentation['task'], detection['task']) == ('segmentation', 'detection')
    assert detection['shape'] == [64, 128]
    pruned, dense = detection['rows']
    assert pruned['keep_ratio'] == PRUNING['keep_ratio']
    assert pruned['dense'] == dense['model'] == 'dense_det'
    assert pruned['accuracy'] == dense['accuracy'] == {'bbox mAP': 0.0}
    assert pruned['accuracy_raw'] == {}
    assert 'latency' not in dense
    printed = capsys.readouterr().out
    assert 'Semantic segmentation' in printed and 'bbox' in printed
    assert 'pruned_det' in printed


def test_different_test_sets_do_not_share_a_table(
    models: dict[str, str], seg_data: Path, tool: Tool, tmp_path: Path, capsys
):
    other = tmp_path / 'data'
    shutil.copytree(seg_data, other)
    (other / 'images/validation/0.png').unlink()
    config, checkpoint = models['pruned_seg'].split(':')
    copy = tmp_path / 'elsewhere.py'
    copy.write_text(Path(config).read_text().replace(str(seg_data), str(other)))
    pair = f'{copy}:{checkpoint}'
    assert tool('compare.py', models['dense_seg'], pair, '--runs', '0', '--out', tmp_path / 'out') == 2
    assert 'dense_seg and elsewhere are tested on different data' in capsys.readouterr().err


def test_a_detector_through_the_whole_tool(models: dict[str, str], tool: Tool, tmp_path: Path):
    out = tmp_path / 'compare'
    assert tool('compare.py', models['dense_det'], models['pruned_det'], *OPTIONS, '--out', out) == 0
    dense, whole, half, untrained = report_of(out)['tables'][0]['rows']
    assert dense['accuracy'] == whole['accuracy']
    assert 0 < half['flops']['backbone'] < dense['flops']['backbone']
    assert untrained['accuracy']['bbox mAP'] < 5


def bad_arguments(models: dict[str, str]) -> dict[str, tuple[list[str], str]]:
    config, checkpoint = models['pruned_seg'].split(':')
    good = models['pruned_seg']
    return {
        'keep ratio 0': ([good, '--keep-ratio', '0'], 'above 0 and at most 1, got 0'),
        'keep ratio 2': ([good, '--keep-ratio', '1.0', '2'], 'above 0 and at most 1, got 2'),
        'keep ratio a': ([good, '--keep-ratio', 'a'], 'above 0 and at most 1, got a'),
        'shape 0': ([good, '--shape', '0', '64'], 'whole number above 0, got 0'),
        'unknown path': (['nowhere/at/all'], 'nowhere/at/all is neither a work_dir'),
        'no checkpoint': ([config], 'there is no checkpoint for'),
        'missing checkpoint': ([f'{config}:none.pth'], 'checkpoint none.pth does not exist'),
        'other architecture': ([f'{config}:{models["dense_det"].split(":")[1]}'], 'is of another architecture'),
        'missing data': ([good, '--cfg-options', 'test_dataloader.dataset.data_root=/no/data'], '/no/data'),
        'bad pruning': ([good, '--cfg-options', 'model.backbone.pruning.layers=[1,9]'], 'layer 9'),
        'checkpoint as config': ([checkpoint], 'neither a work_dir, nor a config'),
    }


CASES = list(bad_arguments({name: f'{name}.py:{name}.pth' for name in ('pruned_seg', 'dense_det')}))


@pytest.mark.parametrize('case', CASES)
def test_bad_input_gets_one_sentence(case: str, models: dict[str, str], tool: Tool, tmp_path: Path, capsys):
    args, told = bad_arguments(models)[case]
    out = tmp_path / 'compare'
    assert tool('compare.py', *args, '--runs', '0', '--out', out) == 2
    err = capsys.readouterr().err
    assert 'Traceback' not in err
    (line,) = [line for line in err.splitlines() if 'error: ' in line]
    assert told in line
    assert not list(out.glob('compare.*'))
