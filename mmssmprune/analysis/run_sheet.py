"""All jobs of the tables of COCO and ADE20K in order, as a shell script: train, test and compare what is not there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmssmprune.engine.loading import read_config

# (H, W) at which tables state FLOPs and latency.
_SHAPES = {'coco': ('800', '1280'), 'lsj-': ('1024', '1024'), 'ade20k': ('512', '2048')}
# How a config's name says what it is.
_NAME = re.compile(
    r'(?P<size>[a-z-]+?-(?:l\d|[tsb]))(?:-(?P<peer>merge|evit))?(?:-(?P<level>(?:flops|top)\d+))?'
    r'(?:-(?P<start>finetune|elastic))?_(?P<head>[a-z-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)-(?P<recipe>[a-z-]*?)'
    r'\d+[xek]_(?P<data>coco|ade20k)(?:-\d+x\d+)?'
)


@dataclass(frozen=True)
class Job:
    """A training of a config, its test and its place in a table.

    Attributes:
        config: its file.
        size: backbone and size, e.g. vmamba-t.
        peer, level, start: what it prunes by, how much, and whether it starts from the dense model; '' for none.
        head, data: of the table.
        gpus: for how many the recipe is.
        recipe: what the name says before the length, e.g. ``ms-`` or ``lsj-``.
    """

    config: Path
    size: str
    peer: str
    level: str
    start: str
    head: str
    data: str
    gpus: int
    recipe: str

    @property
    def table(self) -> tuple[str, str, str]:
        """What shares a comparison."""
        return self.data, self.size, self.head

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned."""
        return not self.level

    @property
    def rank(self) -> tuple:
        """Dense first, then from scratch by level, then the peers, then what starts from the dense model."""
        return not self.is_dense, bool(self.start), bool(self.peer), self.level, self.peer, self.start, self.recipe

    @property
    def work_dir(self) -> str:
        """Where its files are."""
        return f'work_dirs/{self.config.stem}'

    @property
    def checkpoint(self) -> str:
        """The one that ends it."""
        return f'{self.work_dir}/{self.last}'

    @cached_property
    def last(self) -> str:
        """Its name, which the length of the training in the config says."""
        loop = read_config(str(self.config)).train_cfg
        return f'epoch_{loop.max_epochs}.pth' if loop.get('max_epochs') else f'iter_{loop.max_iters}.pth'


def read_job(config: Path) -> Job | None:
    """The job of a config, by its name; None for classifiers and the small sets."""
    match = _NAME.fullmatch(config.stem)
    if match is None:
        return None
    words = {key: match[key] or '' for key in ('size', 'peer', 'level', 'start', 'head', 'data', 'recipe')}
    words['size'] = words['size'].replace('-adapter', '')
    return Job(config, **words, gpus=int(match['gpus']))


def find_jobs(configs: Path, data: Sequence[str], families: Sequence[str]) -> list[Job]:
    """All jobs below ``configs``, table by table, in the order in which they can run."""
    found = [read_job(path) for family in families for path in sorted((configs / family).glob('*.py'))]
    jobs = [job for job in found if job is not None and job.data in data]
    order = {family.replace('_', '-'): i for i, family in enumerate(families)}
    return sorted(jobs, key=lambda job: (data.index(job.data), order[job.size.rpartition('-')[0]], job.table, job.rank))


@dataclass(frozen=True)
class Launcher:
    """How jobs are started: by torchrun on this machine, or by Slurm on a partition.

    Attributes:
        partition: of Slurm; '' for torchrun.
        gpus: how many to take, 0 for as many as the recipe is for; another number scales the learning rate.
    """

    partition: str = ''
    gpus: int = 0

    def train(self, job: Job, dense: Job | None) -> str:
        """The command of a training, which goes on where it stopped."""
        options = ['--resume']
        if self.gpus and self.gpus != job.gpus:
            options.append('--auto-scale-lr')
        if job.start and dense is not None:
            options += ['--cfg-options', f'load_from={dense.checkpoint}']
        return self._script('train', job, [job.config.as_posix()], options)

    def test(self, job: Job) -> str:
        """The command of a test."""
        files = [job.config.as_posix(), job.checkpoint]
        return self._script('test', job, files, ['--work-dir', f'{job.work_dir}/test'])

    def one(self, words: Sequence[str]) -> str:
        """A command on one GPU."""
        srun = ['srun', f'--partition={self.partition}', '--gres=gpu:1'] if self.partition else []
        return shlex.join([*srun, *words])

    def _script(self, what: str, job: Job, files: Sequence[str], options: Sequence[str]) -> str:
        gpus = str(self.gpus or job.gpus)
        if not self.partition:
            return shlex.join(['bash', f'tools/dist_{what}.sh', *files, gpus, *options])
        return f'GPUS={gpus} ' + shlex.join(
            ['bash', f'tools/slurm_{what}.sh', self.partition, job.config.stem, *files, *options]
        )


def write_sheet(jobs: Sequence[Job], launcher: Launcher, root: Path) -> str:
    """The script; what is already below ``root`` stands in it as a comment."""
    lines = ['#!/usr/bin/env bash', '# Table by table; what was interrupted goes on when this is run again.', 'set -e']
    for data in dict.fromkeys(job.data for job in jobs):
        lines += ['', shlex.join(['python', 'tools/dataset_tools/check_data.py', data.removesuffix('20k')])]
        for table in dict.fromkeys(job.table for job in jobs if job.data == data):
            lines += ['', f'# {", ".join(table)}', *_table([j for j in jobs if j.table == table], launcher, root)]
    return '\n'.join(lines) + '\n'


def _table(jobs: Sequence[Job], launcher: Launcher, root: Path) -> Iterator[str]:
    dense = next((job for job in jobs if job.is_dense), None)
    for job in jobs:
        trained = (root / job.checkpoint).is_file()
        tested = any((root / job.work_dir / 'test').glob('*/*.json'))
        yield f'{"# done: " * trained}{launcher.train(job, dense)}'
        yield f'{"# done: " * (trained and tested)}{launcher.test(job)}'
    shape = _SHAPES['lsj-' if jobs[0].recipe == 'lsj-' else jobs[0].data]
    out = f'work_dirs/compare/{"_".join(jobs[0].table)}'
    words = ['python', 'tools/compare.py', *(job.work_dir for job in jobs), '--shape', *shape, '--out', out]
    yield launcher.one(words)  # it skips what it has measured
