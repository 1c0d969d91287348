"""The shell scripts start what they say; two processes on the CPU stand for two GPUs."""

from __future__ import annotations

import os
import pickle
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import DET_CONFIG, PRUNING, REPO, SEG_CONFIG, tool_environment, write_config

SCRIPTS = ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh')


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def run_script(name: str, *args: object, **extra: str) -> subprocess.CompletedProcess:
    environment = tool_environment(PYTHON=sys.executable, PORT=free_port(), **extra)
    command = ['bash', str(REPO / 'tools' / name), *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_tell_their_usage(name: str):
    run = run_script(name)
    assert run.returncode == 2
    assert run.stderr.startswith('usage: ')


@pytest.mark.parametrize(
    ('name', 'args', 'command'),
    [
        ('slurm_train.sh', ('gpu', 'job', 'a.py', '--amp'), 'train.py a.py --launcher slurm --amp'),
        ('slurm_test.sh', ('gpu', 'job', 'a.py', 'b.pth', '--tta'), 'test.py a.py b.pth --launcher slurm --tta'),
    ],
)
def test_slurm_scripts_call_srun(name: str, args: tuple[str, ...], command: str, tmp_path: Path):
    """An ``srun`` that prints its arguments, since there is no cluster here."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(srun.stat().st_mode | stat.S_IEXEC)
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    run = run_script(name, *args, PATH=path, GPUS='4', SRUN_ARGS='--quiet --exclusive')
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith('--partition=gpu --job-name=job --gres=gpu:4 --ntasks=4 --ntasks-per-node=4')
    assert '--quiet --exclusive' in run.stdout
    assert run.stdout.rstrip().endswith(command)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='two processes on the CPU; a GPU is here')
def test_two_processes_train_and_test(seg_data: Path, det_data: Path, tmp_path: Path):
    config = write_config(tmp_path / 'tiny_dist.py', SEG_CONFIG, seg_data, pruning=PRUNING)
    run = run_script('dist_train.sh', config, 2, '--work-dir', tmp_path / 'work')
    assert run.returncode == 0, run.stderr[-3000:]
    assert 'Iter(train) [4/4]' in run.stdout or (tmp_path / 'work' / 'iter_4.pth').is_file()

    config = write_config(tmp_path / 'tiny_dist_det.py', DET_CONFIG, det_data)
    assert run_script('dist_train.sh', config, 2, '--work-dir', tmp_path / 'det').returncode == 0
    out = tmp_path / 'predictions.pkl'
    args = (config, tmp_path / 'det' / 'iter_4.pth', 2, '--work-dir', tmp_path / 'det', '--out', out)
    run = run_script('dist_test.sh', *args)
    assert run.returncode == 0, run.stderr[-3000:]
    assert sorted(sample['img_id'] for sample in pickle.loads(out.read_bytes())) == [0, 1]
