"""The shell scripts start what they say, with what their environment variables ask for."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from tiny_runs import REPO, tool_environment

SCRIPTS = ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh')


def run_script(name: str, *args: str, **extra: str) -> subprocess.CompletedProcess:
    command = ['bash', str(REPO / 'tools' / name), *args]
    return subprocess.run(command, env=tool_environment(**extra), capture_output=True, text=True, timeout=60)


def echo(folder: Path, name: str) -> Path:
    """A command of this name that prints its arguments."""
    script = folder / name
    script.write_text('#!/bin/sh\necho "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    return script


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_tell_their_usage(name: str):
    for args in ((), ('one',)):
        run = run_script(name, *args)
        assert run.returncode == 2
        assert run.stderr.startswith('usage: ')
        assert name in run.stderr
        assert 'CONFIG' in run.stderr


@pytest.mark.parametrize(
    ('name', 'args', 'command'),
    [
        ('dist_train.sh', ('a.py', '8', '--amp'), 'train.py a.py --amp --launcher pytorch'),
        ('dist_test.sh', ('a.py', 'b.pth', '8', '--tta'), 'test.py a.py b.pth --tta --launcher pytorch'),
    ],
)
def test_dist_scripts_call_torchrun(name: str, args: tuple[str, ...], command: str, tmp_path: Path):
    python = str(echo(tmp_path, 'python'))
    alone = run_script(name, *args, PYTHON=python)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.startswith('-m torch.distributed.run --nnodes=1 --node_rank=0 --master_addr=127.0.0.1')
    assert '--master_port=29500 --nproc_per_node=8' in alone.stdout
    assert alone.stdout.rstrip().endswith(command)
    several = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='node0', PORT='29512')
    nodes = run_script(name, *args, PYTHON=python, **several)
    assert '--nnodes=2 --node_rank=1 --master_addr=node0 --master_port=29512' in nodes.stdout


@pytest.mark.parametrize(
    ('name', 'args', 'command'),
    [
        ('slurm_train.sh', ('gpu', 'job', 'a.py', '--amp'), 'train.py a.py --amp --launcher slurm'),
        ('slurm_test.sh', ('gpu', 'job', 'a.py', 'b.pth', '--tta'), 'test.py a.py b.pth --tta --launcher slurm'),
    ],
)
def test_slurm_scripts_call_srun(name: str, args: tuple[str, ...], command: str, tmp_path: Path):
    echo(tmp_path, 'srun')
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    few = run_script(name, *args, PATH=path, GPUS='4', SRUN_ARGS='--quiet --exclusive')
    assert few.returncode == 0, few.stderr
    assert few.stdout.startswith('--partition=gpu --job-name=job --gres=gpu:4 --ntasks=4 --ntasks-per-node=4')
    assert '--cpus-per-task=5 --kill-on-bad-exit=1 --quiet --exclusive' in few.stdout
    assert few.stdout.rstrip().endswith(command)
    many = run_script(name, *args, PATH=path, GPUS='16', CPUS_PER_TASK='8')
    assert '--gres=gpu:8 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=8' in many.stdout
