"""The notions of the study (setting, row, line, study, run), the order of runs, and where their files are."""

from __future__ import annotations

import re
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mmssmprune
from mmssmprune.analysis.results import digest

REPO = Path(mmssmprune.__file__).resolve().parents[1]
PHASES = ('free', 'tuned')
# Ways to say how much is pruned; one replaces the others, and only a target has an input_shape.
LEVEL_KEYS = ('keep_ratio', 'flops_reduction', 'tokens')


@dataclass(frozen=True)
class StudySetting:
    """A dense model on a data set, with its two schedules.

    Attributes:
        name: folder name and command line name, ``<backbone family>-<task>``.
        title: how tables call it.
        config: the dense config, relative to the repository.
        task: 'seg' or 'det'.
        dense_iters: iterations of the dense training.
        tune_iters: iterations of the fine-tuning that every row of the phase ``tuned`` gets.
        far_classes: the classes that only a far marker tells apart.
        shape: (H, W) in pixels at which FLOPs are counted.
        flops_reduction: how much a row prunes that does not say it.
        warmup: first iterations of a fine-tuning, with a growing learning rate.
        lr_scale: learning rate of a fine-tuning, as a share of the dense one.
        dense_interval, tune_interval: iterations between two checkpoints.
        test_batch: images per batch in tests; the numbers do not depend on it.
    """

    name: str
    title: str
    config: str
    task: str
    dense_iters: int
    tune_iters: int
    far_classes: tuple[str, ...] = ('four_red', 'four_blue')
    shape: tuple[int, int] = (128, 128)
    flops_reduction: float = 0.4
    warmup: int = 10
    lr_scale: float = 0.2
    dense_interval: int = 200
    tune_interval: int = 50
    test_batch: int = 10

    @property
    def config_path(self) -> Path:
        """The config's file."""
        return REPO / self.config


@dataclass(frozen=True)
class StudyRow:
    """What is done to a dense model.

    Attributes:
        pruning: the backbone's pruning dict; None leaves the model dense.
        cfg: more of the fine-tuning's config, merged into it (``custom_hooks``, for example).
        tests: at what levels the model is tested: changes of ``pruning``, such as ``dict(flops_reduction=0.2)``.
        phases: 'free' (dense weights as they are) and 'tuned' (after the fine-tuning).
        tune_iters, lr_scale: a fine-tuning of another length and learning rate than the setting's.
        keep: keep the fine-tuned checkpoint.
    """

    pruning: Mapping[str, Any] | None
    cfg: Mapping[str, Any] = field(default_factory=dict)
    tests: tuple[Mapping[str, Any], ...] = ({},)
    phases: tuple[str, ...] = PHASES
    tune_iters: int | None = None
    lr_scale: float | None = None
    keep: bool = False

    def pruning_at(self, test: int) -> dict[str, Any] | None:
        """The pruning dict of one of the tests."""
        if self.pruning is None:
            return None
        change = self.tests[test]
        replaced = LEVEL_KEYS if any(key in change for key in LEVEL_KEYS) else ()
        if 'keep_ratio' in change:
            replaced = (*replaced, 'input_shape')
        return {key: value for key, value in self.pruning.items() if key not in replaced} | dict(change)


@dataclass(frozen=True)
class Line:
    """One line of a table: a row at one of its tests.

    Attributes:
        label: what the table calls it.
        row: what is done.
        test: which of the row's tests it shows.
        against: label of the line that it is compared with.
        group: lines of one group are joined in a figure of curves.
    """

    label: str
    row: StudyRow
    test: int = 0
    against: str | None = None
    group: str = ''


@dataclass(frozen=True)
class Study:
    """One table per setting and metric.

    Attributes:
        name: command line name.
        title: heading.
        page: the file in docs/results that shows it.
        text: what the question is, in a sentence or two.
        lines: the table.
        settings: names of the settings that it makes sense for; None for all.
        figure: 'dots' (a dot per line) or 'curves' (accuracy over saved FLOPs).
    """

    name: str
    title: str
    page: str
    text: str
    lines: tuple[Line, ...]
    settings: tuple[str, ...] | None = None
    figure: str = 'dots'

    def __post_init__(self) -> None:
        labels = [line.label for line in self.lines]
        for line in self.lines:
            if labels.count(line.label) > 1:
                raise ValueError(f'study {self.name} has two lines {line.label!r}; give them different labels')
            if line.against is not None and line.against not in labels:
                raise ValueError(
                    f'study {self.name}: {line.label!r} is compared with {line.against!r}, which is no line'
                )
            if not 0 <= line.test < len(line.row.tests):
                raise ValueError(f'study {self.name}: {line.label!r} shows test {line.test} of {len(line.row.tests)}')

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that any comparison of the study has."""
        compared = [line for line in self.lines if line.against is not None] or self.lines
        return tuple(phase for phase in PHASES if any(phase in line.row.phases for line in compared))

    def fits(self, setting: StudySetting) -> bool:
        """Whether the study is meant for a setting."""
        return self.settings is None or setting.name in self.settings


@dataclass(frozen=True)
class Run:
    """A row in one phase with one seed: one result file."""

    setting: StudySetting
    row: StudyRow
    phase: str
    seed: int
    label: str = ''

    def __post_init__(self) -> None:
        pruning = self.row.pruning
        if pruning is not None and not any(key in pruning for key in LEVEL_KEYS):
            level = dict(flops_reduction=self.setting.flops_reduction, input_shape=self.setting.shape)
            object.__setattr__(self, 'row', replace(self.row, pruning=dict(pruning) | level))

    @property
    def tune_iters(self) -> int:
        """Iterations of the fine-tuning."""
        return self.row.tune_iters or self.setting.tune_iters

    @property
    def lr_scale(self) -> float:
        """Learning rate of the fine-tuning, as a share of the dense one."""
        return self.row.lr_scale or self.setting.lr_scale

    @property
    def definition(self) -> dict[str, Any]:
        """All that decides the result besides the seed, the data and the code."""
        setting, row = self.setting, self.row
        definition = {
            'setting': setting.name,
            'dense_iters': setting.dense_iters,
            'shape': list(setting.shape),
            'phase': self.phase,
            'pruning': None if row.pruning is None else dict(row.pruning),
            'tests': [dict(test) for test in row.tests],
        }
        if self.phase == 'tuned':
            schedule = {'iters': self.tune_iters, 'warmup': setting.warmup, 'lr_scale': self.lr_scale}
            definition |= {'schedule': schedule, 'cfg': dict(row.cfg)}
        return definition

    @property
    def series(self) -> str:
        """The same for all seeds."""
        pruning = self.row.pruning
        words = ['dense'] if pruning is None else [str(v) for v in pruning.values() if isinstance(v, str)]
        readable = re.sub(r'[^\w.+-]+', '_', '-'.join([self.phase, *words]))[:80]
        return f'{readable}-{digest(self.definition)[:12]}'

    @property
    def id(self) -> str:
        """Names the result; another definition is another run."""
        return f'{self.series}-seed{self.seed}'

    @property
    def name(self) -> str:
        """How progress and messages call it."""
        return f'{self.setting.name}/{self.label}/{self.phase}/seed{self.seed}'


def plan_runs(
    studies: Sequence[Study],
    settings: Sequence[StudySetting],
    seeds: Sequence[int],
    phases: Sequence[str] = PHASES,
    only: str | None = None,
) -> list[Run]:
    """All runs, each once, in the order to do them: study by study, free before tuned, seed by seed.

    Args:
        studies: by priority.
        settings, seeds, phases: the combinations wanted.
        only: a pattern (as of file names) for `Run.name`, e.g. ``*alignment/*``; None for all.
    """
    planned = (
        Run(setting, line.row, phase, seed, f'{study.name}/{line.label}')
        for study in studies
        for phase in phases
        for seed in seeds
        for setting in settings
        if study.fits(setting)
        for line in study.lines
        if phase in line.row.phases
    )
    runs: dict[tuple[str, str], Run] = {}
    for run in planned:
        if only is None or fnmatch(run.name, only):
            runs.setdefault((run.setting.name, run.id), run)
    return list(runs.values())


def load_plan(path: str | Path | None = None) -> tuple[list[StudySetting], list[Study]]:
    """The settings and studies that a Python file defines as SETTINGS and STUDIES; by default those of `study.py`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not define them.
    """
    if path is None:
        from . import study

        return list(study.SETTINGS), list(study.STUDIES)
    if not Path(path).is_file():
        raise FileNotFoundError(f'plan {path} does not exist')
    names = runpy.run_path(str(path))
    if 'SETTINGS' not in names or 'STUDIES' not in names:
        raise ValueError(
            f'plan {path} has to define SETTINGS and STUDIES, as mmssmprune/analysis/evidence/study.py does'
        )
    return list(names['SETTINGS']), list(names['STUDIES'])


@dataclass(frozen=True)
class StudyFolders:
    """Where the files of a run are: all below one folder, ``work_dirs/evidence`` by default."""

    root: Path

    def dense_dir(self, setting: StudySetting, seed: int) -> Path:
        """The work_dir of a dense training."""
        return self.root / setting.name / 'dense' / f'seed{seed}'

    def dense_checkpoint(self, setting: StudySetting, seed: int) -> Path:
        """Where a finished dense training leaves its weights."""
        return self.dense_dir(setting, seed) / f'iter_{setting.dense_iters}.pth'

    def run_dir(self, run: Run) -> Path:
        """The work_dir of a fine-tuning."""
        return self.root / run.setting.name / 'runs' / run.id

    def tuned_checkpoint(self, run: Run) -> Path:
        """Where a finished fine-tuning leaves its weights."""
        return self.run_dir(run) / f'iter_{run.tune_iters}.pth'

    def result(self, run: Run) -> Path:
        """A run whose result is there is done."""
        return self.root / run.setting.name / 'results' / f'{run.id}.json'

    def error(self, run: Run) -> Path:
        """What went wrong the last time."""
        return self.root / run.setting.name / 'errors' / f'{run.id}.txt'

    def results(self) -> list[Path]:
        """All results there are."""
        return sorted(self.root.glob('*/results/*.json'))


# The names of the two in a plan file.
Setting, Row = StudySetting, StudyRow
