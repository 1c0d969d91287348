"""The run sheet has every config of the tables once, in an order that works, and leaves out what is there."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from tiny_runs import REPO

from mmssmprune.analysis.run_sheet import Launcher, find_jobs, read_job, write_sheet

FAMILIES = ['plain_mamba', 'vim', 'vmamba']


def in_tables() -> list[Path]:
    """The configs of COCO and ADE20K."""
    paths = [path for family in FAMILIES for path in sorted((REPO / 'configs' / family).glob('*.py'))]
    return [path for path in paths if 'mini' not in path.stem and 'in1k' not in path.stem]


@pytest.fixture(scope='module')
def jobs() -> list:
    return find_jobs(REPO / 'configs', ['coco', 'ade20k'], FAMILIES)


def test_every_config_of_the_tables_is_a_job_once(jobs):
    assert sorted(job.config for job in jobs) == sorted(in_tables())
    assert len(jobs) > 100


def test_dense_models_come_before_what_starts_from_them(jobs):
    for job in jobs:
        table = [other for other in jobs if other.table == job.table]
        assert table[0].is_dense
        assert jobs.index(table[0]) + len(table) - 1 == jobs.index(table[-1]), 'a table in one piece'


@pytest.mark.parametrize(
    ('start', 'last'),
    [
        ('vmamba-t_mask-rcnn_8xb2-ms-3x', 'epoch_36.pth'),
        ('vim-t_mask-rcnn', 'iter_184375.pth'),  # 100 epochs, counted in iterations
        ('plain-mamba-l1_upernet', 'iter_160000.pth'),
    ],
)
def test_the_last_checkpoint_is_that_of_the_config(start: str, last: str, jobs):
    (job,) = [job for job in jobs if job.config.stem.startswith(start)]
    assert job.last == last


def test_the_script(jobs, tmp_path: Path):
    small = [job for job in jobs if job.table == ('coco', 'vmamba-t', 'mask-rcnn')]
    dense, pruned = small[0], next(job for job in small if job.level)
    (tmp_path / dense.work_dir / 'test/20260101').mkdir(parents=True)
    for file in (
        dense.checkpoint,
        f'{dense.work_dir}/test/20260101/20260101.json',
    ):
        (tmp_path / file).write_text('')
    (tmp_path / pruned.work_dir).mkdir(parents=True)
    (tmp_path / pruned.checkpoint).write_text('')
    sheet = write_sheet(small, Launcher(), tmp_path)
    assert subprocess.run(['bash', '-n'], input=sheet, text=True).returncode == 0
    lines = sheet.splitlines()
    done = [line for line in lines if line.startswith('# done: ')]
    assert [line.split()[3] for line in done] == ['tools/dist_train.sh', 'tools/dist_test.sh', 'tools/dist_train.sh']
    tuned = [shlex.split(line) for line in lines if 'finetune' in line and 'dist_train' in line]
    assert [words[-1] for words in tuned] == [f'load_from={dense.checkpoint}']
    compare = shlex.split(lines[-1])
    assert compare[:2] == ['python', 'tools/compare.py']
    assert compare[2 : 2 + len(small)] == [job.work_dir for job in small]
    assert compare[-5:-2] == ['--shape', '800', '1280']


def test_slurm_and_another_number_of_gpus(jobs):
    sheet = write_sheet([job for job in jobs if job.size == 'vim-t'], Launcher('gpu', 16), REPO)
    trainings = [line for line in sheet.splitlines() if 'slurm_train' in line]
    assert len(trainings) == len([job for job in jobs if job.size == 'vim-t'])
    assert all(line.startswith('GPUS=16 bash tools/slurm_train.sh gpu ') for line in trainings)
    assert all('--auto-scale-lr' in line and '--resume' in line for line in trainings)
    assert 'srun --partition=gpu --gres=gpu:1 python tools/compare.py' in sheet


def test_what_is_no_config_of_a_table():
    for name in ('vim-t_8xb128_in1k', 'vim-mini_upernet_1xb8-450i_mini-ade-128x128', 'x'):
        assert read_job(Path(f'{name}.py')) is None
