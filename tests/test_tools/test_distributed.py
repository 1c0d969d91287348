"""tools/dist_*.sh with two processes on the CPU: they train, and they measure what one process measures."""

from __future__ import annotations

import json
import pickle
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import (
    DET_CONFIG,
    PRUNING,
    REPO,
    SEG_CONFIG,
    make_det_data,
    make_seg_data,
    tool_environment,
    write_config,
)

Tool = Callable[..., int]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='two processes on the CPU; a GPU is here')
# What the real configs ask for; it does not run on the CPU.
SYNC_BN = "\nmodel['decode_head']['norm_cfg'] = dict(type='SyncBN', requires_grad=True)\nsync_bn = 'torch'\n"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def start_script(name: str, *args: object, cwd: Path, **variables: str) -> subprocess.Popen:
    """A launcher script with its own PORT, started in ``cwd``."""
    command = ['bash', str(REPO / 'tools' / name), *map(str, args)]
    environment = tool_environment(**{'PYTHON': sys.executable, 'PORT': free_port(), **variables})
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def output_of(process: subprocess.Popen) -> str:
    """What it prints until its end, which has to be a good one."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err  # whole: the rank that failed first stands far above torchrun's summary
    return out


def run_script(name: str, *args: object, cwd: Path) -> str:
    """Run a launcher script; returns its output. Processes that lost each other in gloo are started once more.

    That is the network of a busy machine. Any other error of any rank counts at once.
    """
    process = start_script(name, *args, cwd=cwd)
    out, err = process.communicate(timeout=300)
    errors = re.findall(r'^\[rank\d\]: \w+Error.*', err, re.MULTILINE)
    if process.returncode and errors and all('gloo' in error for error in errors):
        return output_of(start_script(name, *args, cwd=cwd))
    assert process.returncode == 0, err
    return out


def metrics_of(work_dir: Path) -> dict[str, float]:
    """What the one test in this folder measured."""
    (path,) = [path for path in work_dir.glob('*/*.json') if path.parent.name == path.stem]
    metrics = json.loads(path.read_text())
    return {name: value for name, value in metrics.items() if 'time' not in name}


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A segmentation config with five test images, what two processes trained with it, and their output."""
    folder = tmp_path_factory.mktemp('two')
    data = make_seg_data(folder / 'data', train=7, val=5)
    config = write_config(folder / 'tiny_dist.py', SEG_CONFIG, data, iters=6, pruning=PRUNING)
    config.write_text(config.read_text() + SYNC_BN)
    output = run_script('dist_train.sh', config, 2, '--work-dir', folder / 'work', cwd=folder)
    return config, folder / 'work' / 'iter_6.pth', output


def test_two_processes_train(trained: tuple[Path, Path, str]):
    _, checkpoint, output = trained
    assert 'no GPU: 2 processes on the CPU talk through gloo' in output
    assert 'SyncBatchNorm needs a GPU' in output
    content = torch.load(checkpoint, weights_only=False)
    assert content['meta']['iter'] == 6
    assert not any(name.startswith('module.') for name in content['state_dict'])
    (scalars,) = checkpoint.parent.glob('*/vis_data/scalars.json')
    losses = [entry['loss'] for entry in map(json.loads, scalars.read_text().splitlines()) if 'loss' in entry]
    assert losses
    assert np.isfinite(losses).all()


def test_two_processes_measure_the_same_miou(trained: tuple[Path, Path, str], tool: Tool, tmp_path: Path):
    """Five images over two processes: one of them tests an image twice, which must not count."""
    config, checkpoint, _ = trained
    alone, two = tmp_path / 'alone', tmp_path / 'two'
    assert tool('test.py', config, checkpoint, '--work-dir', alone, '--out', alone / 'maps') == 0
    run_script('dist_test.sh', config, checkpoint, 2, '--work-dir', two, '--out', two / 'maps', cwd=tmp_path)
    assert metrics_of(alone) == metrics_of(two)
    assert metrics_of(two)['mIoU'] > 0
    maps = [{path.name: path.read_bytes() for path in folder.glob('maps/*.png')} for folder in (alone, two)]
    assert maps[0] == maps[1]  # metrics are rounded, predictions are not
    assert len(maps[0]) == 5


# The same launcher, sampler and gathering as for mIoU above, with the boxes of another metric.
@pytest.mark.slow
def test_two_processes_measure_the_same_map(tool: Tool, tmp_path: Path):
    data = make_det_data(tmp_path / 'data', train=8, val=5)
    config = write_config(tmp_path / 'tiny_dist_det.py', DET_CONFIG, data, iters=40, interval=40, pruning=PRUNING)
    assert tool('train.py', config, '--work-dir', tmp_path / 'work') == 0
    checkpoint = tmp_path / 'work' / 'iter_40.pth'
    alone, two = tmp_path / 'alone', tmp_path / 'two'
    assert tool('test.py', config, checkpoint, '--work-dir', alone, '--out', alone / 'all.pkl') == 0
    run_script('dist_test.sh', config, checkpoint, 2, '--work-dir', two, '--out', two / 'all.pkl', cwd=tmp_path)
    assert metrics_of(alone) == metrics_of(two)
    assert metrics_of(two)['coco/bbox_mAP'] > 0
    first, second = (pickle.loads((folder / 'all.pkl').read_bytes()) for folder in (alone, two))
    assert [sample['img_id'] for sample in first] == [sample['img_id'] for sample in second] == [0, 1, 2, 3, 4]
    for one, other in zip(first, second, strict=True):
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(one['pred_instances'][key], other['pred_instances'][key])


@pytest.mark.slow
def test_two_nodes_measure_the_same_miou(trained: tuple[Path, Path, str], tool: Tool, tmp_path: Path):
    """The script started once per node, here twice on one."""
    config, checkpoint, _ = trained
    assert tool('test.py', config, checkpoint, '--work-dir', tmp_path / 'alone') == 0
    port, args = free_port(), (config, checkpoint, 1, '--work-dir', tmp_path / 'two')
    nodes = [
        start_script('dist_test.sh', *args, cwd=tmp_path, PORT=port, NNODES='2', NODE_RANK=rank) for rank in ('0', '1')
    ]
    assert 'no GPU: 2 processes' in ''.join(map(output_of, nodes))
    assert metrics_of(tmp_path / 'alone') == metrics_of(tmp_path / 'two')


@pytest.mark.slow
def test_fsdp_trains(tmp_path: Path):
    """The command of docs/train.md: weights sharded over two processes lead to the same losses and metrics."""
    data = make_seg_data(tmp_path / 'data', val=5)
    config = write_config(tmp_path / 'tiny_fsdp.py', SEG_CONFIG, data, pruning=PRUNING)
    options = 'runner_type=FlexibleRunner strategy.type=FSDPStrategy strategy.model_wrapper.device_id=cpu'
    last = []
    for name, cfg_options in (('ddp', ()), ('fsdp', ('--cfg-options', *options.split()))):
        args = (config, 2, '--work-dir', tmp_path / name, *cfg_options)
        run_script('dist_train.sh', *args, cwd=tmp_path)
        (scalars,) = (tmp_path / name).glob('*/vis_data/scalars.json')
        last.append([json.loads(line) for line in scalars.read_text().splitlines()])
    for ddp, fsdp in zip(*last, strict=True):
        for key in {'loss', 'mIoU'} & ddp.keys():
            assert fsdp[key] == pytest.approx(ddp[key], rel=1e-4)
    assert {path.name for path in (tmp_path / 'fsdp/iter_4.pth').iterdir()} == {'rank0.pth', 'rank1.pth'}


def test_other_launchers_need_gpus(
    trained: tuple[Path, Path, str], tool: Tool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.setenv('SLURM_PROCID', '0')
    config, checkpoint, _ = trained
    assert tool('test.py', config, checkpoint, '--launcher', 'slurm') == 2
    assert '--launcher slurm needs GPUs, and none is visible here' in capfd.readouterr().err
