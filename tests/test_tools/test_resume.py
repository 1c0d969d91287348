"""Training stopped by ``kill -9`` and continued with ``--resume`` ends where an uninterrupted one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import PRUNING, REPO, SEG_CONFIG, tool_environment, write_config

from mmssmprune.checkpoints.writing import sole_training

ITERS, INTERVAL = 40, 10


def train_until_killed(config: Path, work_dir: Path, after: int) -> None:
    """Start tools/train.py and kill it with SIGKILL once iteration ``after`` is saved."""
    command = [sys.executable, str(REPO / 'tools/train.py'), str(config), '--work-dir', str(work_dir)]
    log = (work_dir.parent / 'killed.log').open('w')
    process = subprocess.Popen(command, env=tool_environment(), stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while not (work_dir / f'iter_{after}.pth').exists():
        assert process.poll() is None, (work_dir.parent / 'killed.log').read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def last_miou(work_dir: Path) -> float:
    entries = [
        json.loads(line)
        for file in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    return [entry['mIoU'] for entry in entries if 'mIoU' in entry][-1]


def test_killed_and_resumed_equals_uninterrupted(seg_data: Path, tool, tmp_path: Path):
    config = write_config(
        tmp_path / 'tiny_kill.py', SEG_CONFIG, seg_data, iters=ITERS, interval=INTERVAL, pruning=PRUNING
    )
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    train_until_killed(config, killed, after=2 * INTERVAL)
    assert not (killed / f'iter_{ITERS}.pth').exists()

    assert tool('train.py', config, '--work-dir', killed, '--resume') == 0
    assert 'resumed epoch: 0, iter: ' in max(killed.glob('*/*.log')).read_text()
    assert tool('train.py', config, '--work-dir', whole) == 0

    ends = [torch.load(folder / f'iter_{ITERS}.pth', weights_only=False) for folder in (killed, whole)]
    assert [end['meta']['iter'] for end in ends] == [ITERS, ITERS]
    for name, value in ends[1]['state_dict'].items():
        torch.testing.assert_close(ends[0]['state_dict'][name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert last_miou(killed) == pytest.approx(last_miou(whole), abs=0.5)
    assert last_miou(whole) > 45  # "ground" everywhere scores 25: these models have learned


def test_resume_skips_a_checkpoint_that_was_cut_short(seg_data: Path, tool, tmp_path: Path):
    config = write_config(tmp_path / 'tiny_cut.py', SEG_CONFIG, seg_data, iters=4, interval=2)
    work_dir = tmp_path / 'work'
    assert tool('train.py', config, '--work-dir', work_dir) == 0
    last = work_dir / 'iter_4.pth'
    last.write_bytes(last.read_bytes()[:-500])
    assert tool('train.py', config, '--work-dir', work_dir, '--resume', '--cfg-options', 'max_iters=4') == 0
    assert torch.load(last, weights_only=False)['meta']['iter'] == 4
    log = sorted(work_dir.glob('*/*.log'))[-1].read_text()
    assert 'iter_2.pth' in log
    assert 'resumed epoch: 0, iter: 2' in log


def test_resume_with_nothing_to_resume_starts(seg_data: Path, tool, tmp_path: Path):
    config = write_config(tmp_path / 'tiny_fresh.py', SEG_CONFIG, seg_data, iters=2, interval=2)
    assert tool('train.py', config, '--work-dir', tmp_path / 'work', '--resume') == 0
    assert (tmp_path / 'work' / 'iter_2.pth').is_file()


# Six runs of tools, some seconds each.
def test_what_diverged_or_is_damaged_is_neither_saved_nor_read(seg_data: Path, tool, tmp_path: Path, capsys):
    config = write_config(tmp_path / 'tiny_nan.py', SEG_CONFIG, seg_data, iters=4, interval=1, pruning=PRUNING)
    work_dir = tmp_path / 'work'
    absurd = ('--cfg-options', 'optim_wrapper.optimizer.lr=1e30', 'default_hooks.checkpoint.max_keep_ckpts=1')
    assert tool('train.py', config, '--work-dir', work_dir, *absurd) == 2
    error = capsys.readouterr().err
    assert 'error: training stopped at iteration ' in error
    assert 'Traceback' not in error
    (last,) = work_dir.glob('*.pth')  # of the iteration whose step still gave finite weights
    checkpoint = torch.load(last, weights_only=False)
    assert all(value.isfinite().all() for value in checkpoint['state_dict'].values())

    flipped = bytearray(last.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / 'flipped.pth').write_bytes(flipped)
    checkpoint['state_dict']['backbone.layers.0.norm.weight'][0] = torch.nan
    torch.save(checkpoint, tmp_path / 'nan.pth')
    for name, sentence in {
        'flipped.pth': 'flipped.pth is damaged: ',
        'nan.pth': 'nan.pth holds weights that are not finite, backbone.layers.0.norm.weight first',
    }.items():
        assert tool('test.py', config, tmp_path / name, '--work-dir', tmp_path / 'test') == 2
        assert f'{sentence}' in capsys.readouterr().err


def test_a_second_training_in_a_work_dir_is_refused(seg_data: Path, tool, tmp_path: Path, capsys):
    config = write_config(tmp_path / 'tiny_twice.py', SEG_CONFIG, seg_data, iters=1, interval=1)
    with sole_training(tmp_path):
        assert tool('train.py', config, '--work-dir', tmp_path) == 2
        assert 'is in use by another training (process ' in capsys.readouterr().err
        assert not list(tmp_path.glob('*.pth'))
