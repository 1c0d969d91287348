"""tools/compare.py on tiny real data: what it writes, that it resumes, and how bad input ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from tiny_runs import DET_CONFIG, PRUNING, REPO, SEG_CONFIG, SIZE, write_config
from torch import nn

from mmssmprune.analysis.comparison.forms import FORMS

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


def miou(row: dict) -> float:
    return row['ours']['percent']['mIoU']


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
    assert {row['ours']['num_images'] for row in table['rows']} == {4}
    # the same weights at keep ratio 1.0: the same model
    assert dense['ours']['percent'] == whole['ours']['percent'] != half['ours']['percent']
    flops = [row['cost']['flops'] for row in (dense, whole, half)]
    assert flops[0] == flops[1]
    assert flops[2]['backbone'] < flops[0]['backbone']
    assert flops[2]['heads'] == flops[0]['heads']
    assert flops[2]['total'] == sum(flops[2][part] for part in ('backbone', 'neck', 'heads'))
    # layer 1 of 4 prunes half of the tokens, so two layers run on them
    assert half['cost']['tokens'] == {'per_layer': [36, 36, 18, 18], 'mean_share': 0.75}
    assert miou(half) - miou(dense) == pytest.approx(half['accuracy_difference']['mIoU'])
    assert half['backbone_flops_change'] == pytest.approx(flops[2]['backbone'] / flops[0]['backbone'] - 1)
    assert [len(row['latency']['model']['runs_ms']) for row in (dense, whole, half)] == [2, 2, 2]
    assert half['latency']['backbone']['median_ms'] > 0
    assert untrained['cost'] is untrained['latency'] is None
    assert 0 <= miou(untrained) <= 100


def test_every_output_is_written(compared: Path):
    for name in ('segmentation-flops.png', 'segmentation-latency.png'):
        assert (compared / name).read_bytes().startswith(b'\x89PNG')
        assert f']({name})' in (compared / 'compare.md').read_text()
    assert '| dense_seg | PlainMamba, dense | 1.0 | 100.0 |' in (compared / 'compare.md').read_text()
    frame = pd.read_csv(compared / 'compare.csv', float_precision='round_trip')
    rows = report_of(compared)['tables'][0]['rows']
    assert list(frame['mIoU (ours)']) == [miou(row) for row in rows]
    assert '\\begin{tabular}' in (compared / 'compare.tex').read_text()
    assert (compared / 'compare.html').read_text().count('data:image/png;base64,') == 2


def test_raw_results_say_what_made_them(compared: Path):
    rows = report_of(compared)['tables'][0]['rows']
    for row in rows:
        raw = json.loads((compared / 'results' / row['ours']['result']).read_text())
        assert raw['value']['metrics'] == row['ours']['raw']
        assert raw['key']['config'] == row['config_hash'] and raw['key']['checkpoint'] == row['checkpoint_hash']
        assert raw['value']['device']['name']
    for path in (compared / 'results').iterdir():
        assert {'versions', 'source', 'what'} <= set(json.loads(path.read_text())['key'])
    costs = [json.loads(path.read_text())['value'] for path in (compared / 'results').glob('cost-*')]
    assert {cost['checkpoint'] for cost in costs} == {row['checkpoint_hash'] for row in rows[:3]}


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
    assert miou(report_of(out)['tables'][0]['rows'][2]) == miou(report['tables'][0]['rows'][2])


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


class Wrapped(nn.Module):
    """A form of a backbone that costs nothing to make."""

    def __init__(self, backbone: nn.Module, images: torch.Tensor) -> None:
        super().__init__()
        assert images.shape == (1, 3, SIZE, SIZE)
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.backbone(images)


def of_seed(pair: str, seed: int, folder: Path) -> str:
    """The same config with the checkpoint that a training with this seed might have left."""
    config, checkpoint = pair.split(':')
    state = torch.load(checkpoint)['state_dict']
    torch.manual_seed(seed)
    state = {
        name: value + 0.3 * torch.rand_like(value) if value.is_floating_point() else value
        for name, value in state.items()
    }
    torch.save({'state_dict': state, 'meta': {'seed': seed, 'iter': 4}}, folder / f'seed{seed}.pth')
    return f'{config}:{folder / f"seed{seed}.pth"}'


@pytest.fixture(scope='module')
def swin(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backbone of mmseg in the place of ours."""
    config = tmp_path_factory.mktemp('swin') / 'swin_seg.py'
    config.write_text(
        f"_base_ = '{models['dense_seg'].split(':')[0]}'\n"
        "backbone = dict(_delete_=True, type='SwinTransformer', embed_dims=32, depths=(1,), num_heads=(2,),\n"
        '                window_size=4, strides=(4,), out_indices=(0,))\n'
        'model = dict(backbone=backbone)\n'
    )
    return write_model(config)


# Some seconds: four models are tested, and timed in every form; one call shows all of it.
def test_seeds_references_batches_forms_and_classes(
    models: dict[str, str], swin: str, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(FORMS, 'compile', Wrapped)  # a compiler takes minutes
    out, seeds = tmp_path / 'compare', [of_seed(models['pruned_seg'], seed, tmp_path) for seed in (0, 1)]
    more = ('--batch-sizes', '2', '3', '--forms', 'eager', 'compile', '--per-class')
    args = (models['dense_seg'], *seeds, swin, '--keep-ratio', '0.5', '--runs', '3', *more, '--out', out)
    assert tool('compare.py', *args) == 0
    dense, pruned, reference = report_of(out)['tables'][0]['rows']
    assert [row['kind'] for row in (dense, pruned, reference)] == ['dense', 'pruned', 'reference']
    assert pruned['model'] == 'pruned_seg (2 seeds)' and [run['seed'] for run in pruned['runs']] == [0, 1]
    assert miou(pruned) == pytest.approx(sum(map(miou, pruned['runs'])) / 2)
    assert pruned['accuracy_difference']['mIoU'] == pytest.approx(miou(pruned) - miou(dense))
    assert reference['cost']['tokens'] is None and reference['cost']['flops']['backbone'] > 0
    assert reference['dense'] is None and reference['recipe'] is None
    for row in (dense, pruned, reference):
        latency = row['latency']
        assert set(latency['batches']) == {'2', '3'} and set(latency['forms']) == {'compile'}
        forms = [time for form in latency['forms'].values() for time in form.values()]
        times = [latency['model'], *latency['batches'].values(), *forms]
        assert {len(time['runs_ms']) for time in times} == {6 if row['runs'] else 3}
        # the mean of the classes is what mmseg reports as mIoU, rounded to two digits
        assert sum(row['ours']['per_class'].values()) / 3 == pytest.approx(miou(row), abs=0.01)
    text = (out / 'compare.md').read_text()
    assert '| swin_seg | SwinTransformer, reference | 1.0 | - |' in text and ' ± ' in text and '| red | ' in text
    assert 'images/s at batch 3' in text and 'model, compile (ms)' in text
    assert list(pd.read_csv(out / 'compare-classes.csv')['class']) == ['ground', 'red', 'green']
    before = stamps(out)
    assert tool('compare.py', *args) == 0 and stamps(out) == before
    # alone, its rows become the same table; without the option no classes are shown
    assert tool('compare.py', out, '--out', tmp_path / 'again') == 0
    again = report_of(tmp_path / 'again')['tables'][0]['rows']
    assert [miou(row) for row in again] == [miou(row) for row in (dense, pruned, reference)]
    assert not (tmp_path / 'again/compare-classes.csv').exists()


# Some seconds: a model is tested again.
def test_classes_that_were_not_kept_are_tested_anew(compared: Path, models: dict[str, str], tool: Tool, tmp_path: Path):
    out = tmp_path / 'compare'
    shutil.copytree(compared, out)
    for path in (out / 'results').glob('accuracy-*'):  # as before classes were kept
        record = json.loads(path.read_text())
        del record['value']['per_class']
        path.write_text(json.dumps(record))
    args = (models['dense_seg'], '--runs', '0', '--out', out)
    before = stamps(out)
    assert tool('compare.py', *args) == 0 and stamps(out) == before
    assert tool('compare.py', *args, '--per-class') == 0
    assert [name for name in before if stamps(out)[name] != before[name]] == [
        name for name in before if name.startswith('accuracy-dense_seg-')
    ]


# A second or two: the model is built for its timing.
def test_a_form_that_cannot_be_made_is_one_sentence(
    compared: Path, models: dict[str, str], tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    class Broken(Wrapped):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            raise ValueError('no compiler')

    monkeypatch.setitem(FORMS, 'compile', Broken)
    out = tmp_path / 'compare'
    shutil.copytree(compared, out)
    assert tool('compare.py', models['dense_seg'], '--forms', 'compile', '--runs', '1', '--out', out) == 2
    assert (
        'error: dense_seg cannot be timed in the form compile (no compiler); leave it out of --forms'
        in capsys.readouterr().err
    )


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
    assert pruned['ours']['percent'] == dense['ours']['percent'] == {'bbox mAP': 0.0}
    assert pruned['ours']['raw'] == {}
    assert dense['latency'] is None
    assert not list(out.glob('*-latency.png'))
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
    assert dense['ours']['percent'] == whole['ours']['percent']
    assert 0 < half['cost']['flops']['backbone'] < dense['cost']['flops']['backbone']
    assert untrained['ours']['percent']['bbox mAP'] < 5


def test_configs_without_checkpoint_need_no_data(
    models: dict[str, str], tool: Tool, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # there are no work_dirs here
    configs = [models[name].split(':')[0] for name in ('dense_seg', 'pruned_seg')]
    no_data = ('--cfg-options', 'test_dataloader.dataset.data_root=/no/data')
    assert tool('compare.py', *configs, '--out', 'out', '--shape', '96', '96', *no_data) == 0
    dense, pruned = report_of(tmp_path / 'out')['tables'][0]['rows']
    assert dense['ours'] == {'run': 'not run', 'reason': 'no checkpoint in work_dirs/dense_seg'}
    assert pruned['backbone_flops_change'] < 0 and pruned['cost']['params']['total'] > 0
    assert pruned['latency'] is None and pruned['data_hash'] is None
    table = (tmp_path / 'out/compare.md').read_text()
    assert table.count('| not run |') == 2
    assert not list((tmp_path / 'out').glob('*.png'))
    capsys.readouterr()
    assert tool('compare.py', *configs, '--out', 'out2', *no_data) == 2
    assert 'without data, --shape H W says at which size' in capsys.readouterr().err


def test_published_numbers_stand_beside_not_run(tool: Tool, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = REPO / 'configs/plain_mamba/plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'
    assert tool('compare.py', config, '--out', 'out', '--shape', '128', '128') == 0
    (row,) = report_of(tmp_path / 'out')['tables'][0]['rows']
    assert row['ours']['run'] == 'not run'
    assert row['paper']['percent'] == {'mIoU': 44.1}
    (line,) = [line for line in (tmp_path / 'out/compare.md').read_text().splitlines() if line.startswith('| plain')]
    assert '| 44.1 [1] | not run |' in line


def test_earlier_results_join_without_being_measured(
    compared: Path, models: dict[str, str], tool: Tool, tmp_path: Path
):
    out = tmp_path / 'joined'
    config, checkpoint = models['dense_seg'].split(':')
    other = tmp_path / 'other_seg.py'
    other.write_text(Path(config).read_text())
    args = (compared, f'{other}:{checkpoint}', '--runs', '2', '--out', out)
    assert tool('compare.py', *args) == 0
    assert runners_started(out) == 1
    rows = report_of(out)['tables'][0]['rows']
    earlier = report_of(compared)['tables'][0]['rows']
    # the same config and checkpoint under another name: what this run measured stays
    assert [row['model'] for row in rows] == [*(row['model'] for row in earlier[1:]), 'other_seg']
    assert [row['ours'] for row in rows[:3]] == [row['ours'] for row in earlier[1:]]
    assert {row['origin'] for row in rows[:3]} == {str(compared)} and rows[3]['origin'] == ''
    assert rows[1]['dense'] == 'other_seg'
    text = (out / 'compare.md').read_text()
    assert f'[a] Row of the earlier result {compared}, same software.' in text
    # alone, they need neither data nor models
    assert tool('compare.py', compared / 'compare.json', '--out', tmp_path / 'again') == 0
    assert not (tmp_path / 'again/results').exists()
    again = report_of(tmp_path / 'again')['tables'][0]['rows']
    assert [row['accuracy_difference'] for row in again] == [row['accuracy_difference'] for row in earlier]


def changed_copy(compared: Path, folder: Path, change: Callable[[dict], None]) -> Path:
    """The report of another machine: a copy with some of its rows' facts changed."""
    report = report_of(compared)
    for row in report['tables'][0]['rows']:
        change(row)
    folder.mkdir()
    (folder / 'compare.json').write_text(json.dumps(report))
    return folder


def on_another_device(row: dict) -> None:
    row['checkpoint_hash'] = 'other weights'
    if row['latency']:
        row['latency']['device'] = {'name': 'Other GPU', 'dtype': 'float32'}


def test_latencies_of_different_devices_are_refused(
    compared: Path, models: dict[str, str], tool: Tool, tmp_path: Path, capsys
):
    other = changed_copy(compared, tmp_path / 'other', on_another_device)
    out = tmp_path / 'out'
    for targets in ((other, models['dense_seg']), (other, compared)):
        assert tool('compare.py', *targets, '--out', out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert 'latencies measured on different devices do not share a column' in line
        assert 'dense_seg' in line and 'on Other GPU, dtype float32' in line and '--runs 0' in line
        assert not out.exists()  # before anything is measured
    assert tool('compare.py', other, compared, '--runs', '0', '--out', out) == 0
    rows = report_of(out)['tables'][0]['rows']
    assert len(rows) == 8 and all(row['latency'] is None for row in rows)
    text = (out / 'compare.md').read_text()
    assert '(ms)' not in text
    assert 'Latency of Semantic segmentation is left out. It was measured on: ' in text and 'on Other GPU' in text


def test_other_software_is_told_and_other_data_refused(compared: Path, tool: Tool, tmp_path: Path, capsys):
    def older(row: dict) -> None:
        row['checkpoint_hash'] = 'other weights'
        row['software']['versions']['torch'] = '2.4.0'

    def elsewhere(row: dict) -> None:
        row['data_hash'] = 'other images'

    older_result = changed_copy(compared, tmp_path / 'older', older)
    assert tool('compare.py', compared, older_result, '--out', tmp_path / 'out') == 0
    text = (tmp_path / 'out/compare.md').read_text()
    assert 'measured with other software: torch 2.4.0 instead of' in text
    assert f'dense_seg (from {older_result}) [b]' in text
    capsys.readouterr()
    assert tool('compare.py', compared, changed_copy(compared, tmp_path / 'data', elsewhere), '--out', tmp_path) == 2
    assert 'are tested on different data' in capsys.readouterr().err
    assert tool('compare.py', compared, '--shape', '64', '64', '--out', tmp_path) == 2
    assert 'FLOPs and latency at 64 x 64 and 96 x 96 do not share a column' in capsys.readouterr().err
    other = changed_copy(compared, tmp_path / 'convention', lambda row: None) / 'compare.json'
    other.write_text(json.dumps({**json.loads(other.read_text()), 'conventions': 'A multiply-add is 2.'}))
    assert tool('compare.py', other, '--out', tmp_path) == 2
    assert f'the earlier result {other} counts FLOPs by another convention' in capsys.readouterr().err


def bad_arguments(models: dict[str, str]) -> dict[str, tuple[list[str], str]]:
    config, checkpoint = models['pruned_seg'].split(':')
    good = models['pruned_seg']
    return {
        'keep ratio 0': ([good, '--keep-ratio', '0'], 'above 0 and at most 1, got 0'),
        'keep ratio 2': ([good, '--keep-ratio', '1.0', '2'], 'above 0 and at most 1, got 2'),
        'keep ratio a': ([good, '--keep-ratio', 'a'], 'above 0 and at most 1, got a'),
        'shape 0': ([good, '--shape', '0', '64'], 'whole number above 0, got 0'),
        'unknown path': (['nowhere/at/all'], 'nowhere/at/all is neither a work_dir'),
        'missing result': (['nowhere/compare.json'], 'earlier result nowhere/compare.json does not exist'),
        'missing checkpoint': ([f'{config}:none.pth'], 'checkpoint none.pth does not exist'),
        'other architecture': ([f'{config}:{models["dense_det"].split(":")[1]}'], 'is of another architecture'),
        'batches without runs': ([good, '--batch-sizes', '2'], 'which --runs 0 leaves out'),
        'another form': (
            [good, '--forms', 'tensorrt', '--runs', '1'],
            'there is no form tensorrt of a backbone, but eager, compile, torch, onnx',
        ),
        'no package': (['mmfoo::x.py'], 'before :: stands one of mmdet, mmseg, mmpretrain'),
        'missing data': ([good, '--cfg-options', 'test_dataloader.dataset.data_root=/no/data'], '/no/data'),
        'bad pruning': ([good, '--cfg-options', 'model.backbone.pruning.layers=[1,9]'], 'layer 9'),
        'checkpoint as config': ([checkpoint], 'neither a work_dir, nor a config'),
    }


CASES = list(bad_arguments({name: f'{name}.py:{name}.pth' for name in ('pruned_seg', 'dense_det')}))


@pytest.mark.parametrize('case', CASES)
def test_bad_input_gets_one_sentence(case: str, models: dict[str, str], tool: Tool, tmp_path: Path, capsys):
    args, told = bad_arguments(models)[case]
    out = tmp_path / 'compare'
    runs = () if '--runs' in args else ('--runs', '0')
    assert tool('compare.py', *args, *runs, '--out', out) == 2
    err = capsys.readouterr().err
    assert 'Traceback' not in err
    (line,) = [line for line in err.splitlines() if 'error: ' in line]
    assert told in line
    assert not list(out.glob('compare.*'))


def test_a_metric_without_a_number_still_gives_a_report(
    models: dict[str, str], seg_data: Path, tool: Tool, tmp_path: Path, capsys
):
    blind = tmp_path / 'data'
    shutil.copytree(seg_data, blind)
    for path in (blind / 'annotations/validation').iterdir():
        Image.fromarray(np.full((96, 96), 255, np.uint8)).save(path)  # every pixel is ignored, so no class has an IoU
    out, data = tmp_path / 'compare', f'test_dataloader.dataset.data_root={blind}'
    for _ in range(2):  # measured, then read again
        args = (models['dense_seg'], models['pruned_seg'], '--runs', '0', '--out', out, '--cfg-options', data)
        assert tool('compare.py', *args) == 0
        rows = report_of(out)['tables'][0]['rows']
        assert [row['ours']['percent'] for row in rows] == [{'mIoU': None}] * 2
        assert [row['pareto'] for row in rows] == [{'mIoU': []}] * 2
        assert rows[1]['accuracy_difference'] == {} and rows[1]['backbone_flops_change'] < 0
        assert '[a] The evaluator gave no number (NaN) for mIoU' in capsys.readouterr().out
    assert runners_started(out) == 2
    assert (out / 'compare.md').read_text().count('| NaN |') == 2


def test_a_log_file_shows_the_test_from_its_beginning(
    compared: Path, models: dict[str, str], tool: Tool, tmp_path, capsys
):
    assert tool('compare.py', models['dense_seg'], '--runs', '1', '--out', tmp_path / 'out') == 0
    lines = capsys.readouterr().out.splitlines()
    steps = ['testing dense_seg at keep ratio 1.0 ...', 'counting FLOPs of dense_seg at keep ratio 1.0 ...']
    assert [line for line in lines if line.endswith(' ...')][:2] == steps


def test_damaged_raw_results_are_measured_again(compared: Path, models: dict[str, str], tool: Tool, tmp_path: Path):
    out = tmp_path / 'compare'
    shutil.copytree(compared, out)
    damaged = {'accuracy-dense_seg-*': {'metrics': [1]}, 'cost-pruned_seg*': {'flops': 'many'}, 'latency-*': [{}]}
    for pattern, value in damaged.items():
        path = next((out / 'results').glob(pattern))
        path.write_text(json.dumps(json.loads(path.read_text()) | {'value': value}))
    assert tool('compare.py', models['dense_seg'], models['pruned_seg'], *OPTIONS, '--out', out) == 0
    assert [row['ours'] for row in report_of(out)['tables'][0]['rows']] == [
        row['ours'] for row in report_of(compared)['tables'][0]['rows']
    ]


def test_a_place_that_cannot_be_written_to_is_told_before_the_test(
    models: dict[str, str], tool: Tool, tmp_path: Path, capsys
):
    file = tmp_path / 'file'
    file.write_text('mine')
    for out in (file, file / 'below', Path('/proc/nothing')):
        assert tool('compare.py', models['dense_seg'], '--out', out) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f'error: --out {out} cannot be written to: ') and 'testing' not in captured.out
    assert file.read_text() == 'mine'


def test_a_full_disk_at_the_end_is_one_sentence(compared: Path, tool: Tool, tmp_path: Path, capsys):
    out = tmp_path / 'out'
    (out / 'compare.html').mkdir(parents=True)  # stands for whatever the system refuses
    assert tool('compare.py', compared, '--out', out) == 2
    assert f'error: {out / "compare.html"} cannot be written: ' in capsys.readouterr().err
    assert not list(out.glob('.*'))


def test_names_that_look_like_markup_are_printed_as_they_are(
    models: dict[str, str], tool: Tool, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # there are no work_dirs here
    config = tmp_path / 'a[red]b_$x$_[green]|<i>.py'
    config.write_text(Path(models['dense_seg'].split(':')[0]).read_text())
    assert tool('compare.py', config, '--shape', '64', '64', '--out', tmp_path / 'o[bold]t') == 0
    printed = capsys.readouterr().out
    assert config.stem in printed and 'o[bold]t: compare.json' in printed
    assert report_of(tmp_path / 'o[bold]t')['tables'][0]['rows'][0]['model'] == config.stem


def test_nothing_is_written_outside_the_folder(compared: Path, tool: Tool, tmp_path: Path, capsys):
    report = report_of(compared)
    report['tables'][0]['task'] = '../../x'
    (tmp_path / 'from/elsewhere').mkdir(parents=True)
    path = tmp_path / 'from/elsewhere/compare.json'
    path.write_text(json.dumps(report))
    assert tool('compare.py', path, '--out', tmp_path / 'a/b/c') == 2
    assert f'earlier result {path} is damaged: tables[0].task should be a name of letters' in capsys.readouterr().err
    assert not (tmp_path / 'a').exists()
