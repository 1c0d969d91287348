"""The benchmark scripts at tiny sizes: what they report fits together, and bad input ends in one sentence."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scan_operands import assert_same
from tiny_runs import REPO, tool_environment

from mmssmprune.analysis.speed import scan_cases
from mmssmprune.analysis.speed.cases import WHOLE_MODELS
from mmssmprune.analysis.speed.conv_cases import DENSE, GRID
from mmssmprune.analysis.speed.goals import cpu_goals, gpu_goals
from mmssmprune.analysis.speed.memory import peak_in_fresh_process
from mmssmprune.analysis.speed.profile_groups import GROUPS, REST, time_by_group
from mmssmprune.analysis.speed.timing import time_in_turns
from mmssmprune.ops import available_backends, selective_scan
from mmssmprune.ops.kept_conv import CONV_BACKENDS

SCRIPTS = REPO / 'tools' / 'benchmarks'
SCHEDULE = REPO / 'configs/_base_/schedules/schedule_1x.py'
CPU = torch.device('cpu')
ONCE = ('--device', 'cpu', '--runs', '1', '--warmup', '0')


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process; returns its exit code, stdout and stderr."""

    def start(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / f'{name}.py'), run_name='__main__')
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return start


def report(run, name: str, folder: Path, *arguments: object) -> tuple[dict, str]:
    """The numbers and the Markdown of a run that has to succeed."""
    files = folder / 'report.md', folder / 'report.json'
    code, printed, told = run(name, *ONCE, *arguments, '--out', files[0], '--json', files[1])
    assert code == 0, printed + told
    numbers = json.loads(files[1].read_text())
    assert numbers['complete']
    assert files[0].read_text() == printed
    assert numbers['machine'].keys() >= {'device', 'threads', 'torch', 'Triton', 'dtype', 'scan backends'}
    assert str(folder) not in printed
    return numbers, printed


def test_scan(run, tmp_path):
    numbers, printed = report(
        run, 'benchmark_scan', tmp_path, '--no-memory', '--shapes', 'vim-t:30x48:2', '--kept', 1, 0.5
    )
    for name, expected in (
        ('scan', available_backends('cpu')),
        ('conv', [DENSE, GRID, *CONV_BACKENDS.available(CPU)[1:]]),
    ):
        rows = numbers['tables'][name]
        assert [row['contestant'] for row in rows] == expected * 2
        assert [row['tokens'] for row in rows] == [6] * len(expected) + [3] * len(expected)
        for first, row in ((rows[i - i % len(expected)], row) for i, row in enumerate(rows)):
            assert row['reference'] == first['contestant'] == expected[0]
            for key in ('forward', 'forward_backward'):
                assert row[f'{key}_speedup'] == first[f'{key}_ms'] / row[f'{key}_ms'] > 0
    assert printed.count('| vim-t, 30x48, batch 2 |') == sum(map(len, numbers['tables'].values()))


# 3 s, most of it for importing torch.
def test_the_operators_are_timed_with_torch_alone():
    arguments = ('--shapes', 'vim-t:30x48:1', '--kept', '0.5', '--no-memory')
    command = [sys.executable, '-c', WITH_TORCH_ALONE, str(SCRIPTS / 'benchmark_scan.py'), *ONCE, *arguments]
    done = subprocess.run(command, env=tool_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '| vim-t, 30x48, batch 1 | 0.50 | 3 | cpp |' in done.stdout


def test_scans_of_vmamba_are_those_of_its_stages(run, tmp_path):
    arguments = ('--no-memory', '--shapes', 'vmamba-t:64x72:1', '--kept', 1, 0.5, '--backends', 'cpp')
    numbers, _ = report(run, 'benchmark_scan', tmp_path, *arguments)
    rows = [row for row in numbers['tables']['scan'] if row['kept'] == 1]
    assert [row['tokens'] for row in rows] == [16 * 18, 8 * 9, 4 * 5, 2 * 3]
    assert [row['family'] for row in rows] == list(scan_cases.STAGES['vmamba-t'])
    leaves, _ = scan_cases.make_operands(scan_cases.ScanCase('vmamba-t-stage3', (64, 72), 1), CPU, torch.float32)
    assert (leaves['u'].shape, leaves['A'].shape) == ((1, 1, 20, 384), (4, 384, 1))


def test_backbone_of_four_stages(run, tmp_path):
    arguments = ('--backbone', 'vmamba-t', '--sizes', '64x96', '--keep-ratios', 0.5, '--no-memory', '--naive')
    numbers, _ = report(run, 'benchmark_backbone', tmp_path, *arguments)
    dense, pruned, _ = numbers['tables']['forward']
    assert dense['flops'] > pruned['flops']
    assert [row['scan'] for row in numbers['tables']['backends']] == available_backends('cpu')


def test_scan_says_where_the_loop_is_left_out(run, tmp_path):
    shape = 'plain-mamba-l1:512x1024:2'
    arguments = ('--shapes', shape, '--kept', 0.9, '--no-conv', '--no-memory')
    numbers, printed = report(run, 'benchmark_scan', tmp_path, *arguments)
    assert [row['contestant'] for row in numbers['tables']['scan']] == available_backends('cpu')[1:]
    assert '`naive` is left out' in printed


def torch_kernel(u, delta, A, B, C, D, z, delta_bias, delta_softplus) -> torch.Tensor:
    """Our portable scan with the signature of mamba-ssm's."""
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, backend='torch')


@pytest.mark.parametrize('family', ['plain-mamba-l1', 'vim-t', 'vmamba-t-stage2'])
def test_the_official_way_computes_the_same(family, monkeypatch):
    monkeypatch.setitem(scan_cases.FAMILIES, family, scan_cases.FAMILIES[family]._replace(dim=5))
    leaves, options = scan_cases.make_operands(scan_cases.ScanCase(family, (40, 64), 2), CPU, torch.float64)
    found = []
    for call, leaf_list in (
        scan_cases.official(scan_cases.ScanCase(family, (40, 64), 2), leaves, torch_kernel),
        scan_cases.ours(leaves, options, 'naive'),
    ):
        out = call()
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        grads = torch.autograd.grad((out * weight).sum(), leaf_list)
        found.append({'out': out, **dict(zip(leaves, grads, strict=True))})
    # Parameters are float32, and so are their gradients.
    assert_same(*found, rtol=1e-6)


def test_backbone(run, tmp_path):
    arguments = ('--sizes', '32x40', '--batches', 2, '--keep-ratios', 0.7, 0.4, '--train', '--profile', '--no-memory')
    numbers, _ = report(run, 'benchmark_backbone', tmp_path, *arguments)
    tables = numbers['tables']
    for mode in ('forward', 'training'):
        dense, *pruned, unaligned = tables[mode]
        assert [row['kind'] for row in tables[mode]] == ['dense', 'pruned', 'pruned', 'unaligned']
        assert dense['flops_ratio'] == dense['time_ratio'] == 1
        assert 1 > pruned[0]['flops_ratio'] > pruned[1]['flops_ratio'] == unaligned['flops_ratio'] > 0.25
        for row in pruned:
            assert row['time_ratio'] == row['milliseconds'] / dense['milliseconds']
            assert row['share'] == (1 - row['time_ratio']) / (1 - row['flops_ratio'])
        assert pruned[1]['alignment_cost'] == pruned[1]['milliseconds'] / unaligned['milliseconds'] - 1
        assert tuple(dense['padded']) == (32, 48)
    backends = {row['scan']: row for row in tables['backends']}
    assert list(backends) == available_backends('cpu')
    default = backends[available_backends('cpu')[-1]]
    assert backends['naive']['time_ratio'] == backends['naive']['milliseconds'] / default['milliseconds']
    assert {row['group'] for row in tables['profile']} == {*GROUPS, REST}
    assert len(tables['goals']) == len(cpu_goals([]))


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='only Linux tells')
def test_peak_memory_on_a_cpu_grows_with_the_work():
    """A fresh process counts one case; the naive loop keeps every state for backward, the portable one does not."""
    case = dict(dtype='float32', family='plain-mamba-l1', image=(224, 224), batch=1, kept=1.0)
    found = [
        peak_in_fresh_process(scan_cases.calls_to_weigh, {**case, 'contestant': name}) for name in ('naive', 'torch')
    ]
    states = scan_cases.ScanCase('plain-mamba-l1', (224, 224), 1).states * 4 / 2**20
    assert found[0] > states > 10
    assert found[0] > found[1] > 1


@pytest.mark.slow  # 18 s; the other one shows that peaks are measured
@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='only Linux tells')
def test_peak_memory_of_training_falls_with_the_tokens(run, tmp_path):
    arguments = ('--sizes', '256x320', '--keep-ratios', 0.3, '--layers', 0, '--alignment', 'none', '--train')
    numbers, _ = report(run, 'benchmark_backbone', tmp_path, *arguments, '--no-backends')
    dense, pruned = numbers['tables']['training']
    assert dense['peak_mib'] > pruned['peak_mib'] > 1


def test_profile_puts_time_where_it_belongs():
    conv, linear = torch.nn.Conv2d(8, 8, 3), torch.nn.Linear(64, 64)
    images, tokens = torch.randn(2, 8, 64, 64), torch.randn(512, 64)
    leaves, options = scan_cases.make_operands(scan_cases.ScanCase('vim-t', (64, 64), 1), CPU, torch.float32)
    for group, call in (
        ('convolution', lambda: conv(images)),
        ('linear', lambda: linear(tokens)),
        ('gathers and sorts', lambda: tokens.argsort(0)),
        ('scan', scan_cases.ours(leaves, options, 'torch')[0]),
    ):
        with torch.no_grad():
            times = time_by_group(call, CPU)
        assert max(times, key=times.get) == group, times


def pruned(batch: int, share: float, cost: float | None = None, **other: object) -> dict:
    case = dict(backbone='plain-mamba-l1', image=(224, 224), padded=(224, 224), batch=batch, mode='forward')
    return {**case, 'kind': 'pruned', 'share': share, 'time_ratio': 0.5, 'alignment_cost': cost, **other}


def test_goals_are_judged_by_the_worst_case():
    rows = [pruned(1, 0.5, 0.01), pruned(8, 0.95, 0.03), pruned(16, 0.91)]
    official = dict(kind='dense by backend', scan='mamba_ssm', time_ratio=1.6)
    rows.append(pruned(64, 0, **official))
    for keep_ratio, peak in ((None, 10.0), (0.7, 8.0), (0.5, 9.0)):
        kind = 'pruned' if keep_ratio else 'dense'
        rows.append(pruned(1, 0, mode='training', kind=kind, keep_ratio=keep_ratio, peak_mib=peak))
    on_gpu = [(goal['measured'], goal['verdict']) for goal in gpu_goals(rows)]
    assert on_gpu == [(None, 'not measured'), (1.6, 'met'), (0.91, 'met'), (0.03, 'missed'), (0.0, 'missed')]
    on_cpu = [(goal['measured'], goal['verdict']) for goal in cpu_goals(rows[:3])]
    assert on_cpu == [(None, 'not measured'), (0.5, 'missed'), (0.03, 'missed'), (None, 'not measured')]


def test_whole_models(run, tmp_path):
    numbers, printed = report(run, 'benchmark_e2e', tmp_path, '--quick', '--no-memory', '--shape', 64, 96)
    for mode in ('inference', 'training'):
        dense, pruned = numbers['tables'][mode]
        assert 'top70' in pruned['config'] and 'top70' not in dense['config']
        assert dense['images_per_second'] == 2000 / dense['milliseconds']
        assert pruned['speedup'] == dense['milliseconds'] / pruned['milliseconds']
    assert 'Random weights' in printed


def test_the_configs_of_whole_models_are_there():
    assert [path for pairs in WHOLE_MODELS for pair in pairs for path in pair if not Path(path).is_file()] == []


def test_detectors_are_measured_in_both_modes(run, tmp_path):
    config = REPO / 'configs/plain_mamba/plain-mamba-mini_mask-rcnn_1xb8-300i_mini-coco-128x128.py'
    numbers, _ = report(run, 'benchmark_e2e', tmp_path, config, '--batch', 1, '--shape', 64, 64, '--no-memory')
    assert all(len(rows) == 1 and rows[0]['milliseconds'] > 0 for rows in numbers['tables'].values())


@pytest.mark.parametrize(
    ('name', 'arguments', 'sentence'),
    [
        ('benchmark_scan', ['--shapes', 'vim-t:224:1'], "'vim-t:224:1' is no shape; write FAMILY:HEIGHTxWIDTH:BATCH"),
        ('benchmark_scan', ['--shapes', 'vim-x:224x224:1'], 'with one of plain-mamba-l1, '),
        (
            'benchmark_scan',
            ['--backends', 'mamba_ssm'],
            "--backends: 'mamba_ssm' does not run on cpu here; choose from",
        ),
        ('benchmark_scan', ['--kept', '0'], 'argument --kept: a keep ratio is a number above 0 and at most 1, got 0'),
        ('benchmark_scan', ['--runs', '0'], 'argument --runs: expected a whole number above 0, got 0'),
        ('benchmark_scan', ['--device', 'tpu'], "--device takes cpu, cuda or cuda:N, got 'tpu'"),
        ('benchmark_backbone', ['--sizes', '512'], "'512' is no size; write height x width in pixels, as 512x2048"),
        ('benchmark_backbone', ['--batches', '0'], 'argument --batches: expected a whole number above 0, got 0'),
        ('benchmark_backbone', ['--quick', '--layers', '99'], 'pruning.layers'),
        ('benchmark_backbone', ['--cuda-graph'], '--cuda-graph needs a GPU'),
        ('benchmark_e2e', ['no/such_config.py'], 'config no/such_config.py does not exist'),
        ('benchmark_e2e', [SCHEDULE], 'has no model: give one of the configs outside configs/_base_'),
        ('benchmark_e2e', ['--out', '/proc/none/a.md'], 'the folder of --out /proc/none cannot be written to'),
        ('benchmark_scan', ['--json', str(SCRIPTS)], f'--json {SCRIPTS} is a folder; name a file'),
        ('run_on_gpu', ['--packages', 'no/such_folder'], '--packages no/such_folder: there is no such folder'),
        ('run_on_gpu', ['--only', 'scan'], "--only: there is no part 'scan'; they are test-scan, "),
    ],
)
def test_bad_input_is_one_sentence(run, name, arguments, sentence):
    arguments = arguments if '--device' in arguments or name == 'run_on_gpu' else ['--device', 'cpu', *arguments]
    code, _, told = run(name, *arguments)
    assert code == 2
    assert sentence in told.splitlines()[-1]
    assert 'Traceback' not in told


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there(run):
    code, _, told = run('benchmark_scan', '--device', 'cuda')
    assert code == 2
    assert told.splitlines()[-1].endswith('--device cuda: torch sees 0 GPUs here')


def test_a_contestant_that_fails_stops_no_other():
    def broken() -> None:
        raise RuntimeError('no\nkernel')

    def too_large() -> None:
        raise torch.OutOfMemoryError('CUDA out of memory')

    times, failures = time_in_turns({'a': broken, 'b': lambda: None, 'c': too_large}, CPU, runs=2, warmup=1)
    assert list(times) == ['b']
    assert failures == {'a': 'RuntimeError: no kernel', 'c': 'out of memory'}


def test_dry_run_of_everything_for_a_gpu(tmp_path):
    parts = ('test-backbones', 'backbone-float32', 'scan-float32')
    command = [sys.executable, str(SCRIPTS / 'run_on_gpu.py'), str(tmp_path), '--device', 'cpu', '--only', *parts]
    # As on a machine to which nothing of ours has been installed.
    done = subprocess.run(command, env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / 'summary.md').read_text()
    assert all(f'| {part} | passed |' in summary for part in parts)
    assert '| backbone-float32 | FLOPs saving of the pruned backbone' in summary
    assert all((tmp_path / f'{part}.log').exists() for part in parts)
    assert json.loads((tmp_path / 'scan-float32.json').read_text())['complete']


def test_parts_for_a_gpu_that_fail_or_end_early(tmp_path):
    spec = importlib.util.spec_from_file_location('run_on_gpu', SCRIPTS / 'run_on_gpu.py')
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    try:
        spec.loader.exec_module(script)
    finally:
        del sys.modules[spec.name]
    environment = tool_environment()

    def outcome(arguments: tuple[str, ...], seconds: float, *needs: str, left: float = 60) -> tuple[str, bool, bool]:
        part = script.Part('part', arguments, seconds, needs)
        told = script.run_part(part, tmp_path, environment, 'cpu', left)
        return told, script.has_failed(part, told, 'cuda'), script.has_failed(part, told, 'cpu')

    scan = ('tools/benchmarks/benchmark_scan.py',)
    assert outcome((*scan, '--shapes', 'x'), 60) == ('FAILED, see part.log', True, True)
    assert outcome(scan, 0.2) == ('cut off after 0 s', False, False)
    assert outcome(scan, 60, left=1) == ('not run: no time left', False, False)
    assert outcome(scan, 60, 'no_such_module') == ('not run: no_such_module cannot be imported', False, False)
    # A test that runs nothing proves nothing on a GPU.
    nothing = ('tests/test_docs/test_pages.py', '-k', 'no_such_test')
    assert outcome(nothing, 60)[1]
    assert all((SCRIPTS.parents[1] / part.arguments[0]).exists() for part in script.parts(quick=False))


WITH_TORCH_ALONE = """
import runpy, sys
sys.modules |= dict.fromkeys(('mmengine', 'mmcv', 'mmdet', 'mmseg', 'rich', 'yaml', 'cv2', 'matplotlib', 'mamba_ssm'))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
WITHOUT_MMCV = """
import sys
for name in ('mmcv', 'mmcv._ext', 'mmcv.ops', 'mmdet', 'mmseg', 'mamba_ssm', 'cv2', 'matplotlib'):
    sys.modules[name] = None
import torch
from mmengine.registry import MODELS
from mmssmprune.models import PlainMamba, Vim
for cls in (PlainMamba, Vim):
    for pruning in (None, dict(layers=[1], keep_ratio=0.5)):
        settings = dict(arch=dict(embed_dims=24, num_layers=4), img_size=64, drop_path_rate=0.2, pruning=pruning)
        model = MODELS.build(dict(type=cls.__name__, **settings)).train()
        model(torch.randn(2, 3, 64, 64))[0].sum().backward()
        print(cls.__name__, tuple(model.eval()(torch.randn(2, 3, 64, 64))[0].shape))
"""


def test_plain_backbones_run_without_mmcv():
    environment = tool_environment(MMSSMPRUNE_WITHOUT_MMCV='1')
    done = subprocess.run([sys.executable, '-c', WITHOUT_MMCV], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if ' - mmengine - ' not in line]  # which backend runs
    assert shown == [f'{name} (2, 24, 4, 4)' for name in ('PlainMamba',) * 2 + ('Vim',) * 2]
