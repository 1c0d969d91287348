"""What a study is: settings and rows as plain data; the runs that it asks for, and where their files are."""

from __future__ import annotations

import re
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mmssmprune
from mmssmprune.analysis.results import digest

REPO = Path(mmssmprune.__file__).resolve().parents[1]
PHASES = ('free', 'tuned')
TRAINING = 'training'  # the phase of a dense model's own run
# Ways to say how much is pruned; one replaces the others, and only a target has an input_shape.
LEVEL_KEYS = ('keep_ratio', 'flops_reduction', 'tokens')


@dataclass(frozen=True)
class StudySetting:
    """A dense model on a data set, with its two schedules."""

    name: str  # of its folder, and on the command line: <backbone family>-<task>
    title: str  # how tables call it
    config: str  # the dense config, relative to the repository
    task: str  # 'seg', 'det' (boxes and masks) or 'box' (boxes alone)
    dense_iters: int
    tune_iters: int  # of the fine-tuning that every row of the phase 'tuned' gets
    options: Mapping[str, Any] = field(default_factory=dict)  # changes of the config, as --cfg-options
    small_classes: tuple[str, ...] = ()  # of small or thin objects, for segmentation; detectors have AP small
    shape: tuple[int, int] = (128, 128)  # (H, W) in pixels at which FLOPs are counted
    flops_reduction: float = 0.4  # how much a row prunes that does not say it
    warmup: int = 10  # first iterations of a fine-tuning, with a growing learning rate
    lr_scale: float = 0.2  # learning rate of a fine-tuning, as a share of the dense one
    dense_interval: int = 200  # iterations between two checkpoints
    tune_interval: int = 50
    test_batch: int = 10  # images per batch in tests; the numbers do not depend on it


@dataclass(frozen=True)
class StudyRow:
    """What is done to a dense model, and how it is shown."""

    pruning: Mapping[str, Any] | None  # the backbone's pruning dict; None leaves the model dense
    phases: tuple[str, ...] = PHASES  # 'free': dense weights as they are; 'tuned': after the fine-tuning
    against: str | None = None  # label of the row that it is compared with, if not the study's reference
    cfg: Mapping[str, Any] = field(default_factory=dict)  # changes of the fine-tuning's config, such as custom_hooks
    tune_iters: int | None = None  # instead of the setting's
    tests: tuple[Mapping[str, Any], ...] = ({},)  # changes of pruning, such as dict(flops_reduction=0.2), to test at
    test: int = 0  # which of these the row shows
    group: str = ''  # rows of one group are joined in a figure of curves
    keep: bool = False  # the fine-tuned checkpoint


@dataclass(frozen=True)
class Study:
    """One table per setting and metric."""

    name: str  # on the command line
    title: str
    text: str  # what the question is, in a sentence or two
    rows: Mapping[str, StudyRow | Mapping[str, Any] | None]  # by label; where a row needs no more, its pruning alone
    reference: str | None = None  # the row that the others are compared with; None where each says it itself
    page: str = 'ablations'  # of the report
    settings: tuple[str, ...] | None = None  # names of those that it makes sense for; None for all
    figure: str = 'dots'  # one per row, or 'curves' of accuracy over saved FLOPs

    def __post_init__(self) -> None:
        rows = {label: row if isinstance(row, StudyRow) else StudyRow(row) for label, row in self.rows.items()}
        for label, row in rows.items():
            against = row.against or (None if label == self.reference else self.reference)
            if against is not None and against not in rows:
                raise ValueError(f'study {self.name}: {label!r} is compared with {against!r}, which is no row')
            if not 0 <= row.test < len(row.tests):
                raise ValueError(f'study {self.name}: {label!r} shows test {row.test} of {len(row.tests)}')
            rows[label] = replace(row, against=against)
        object.__setattr__(self, 'rows', rows)

    @property
    def compared(self) -> dict[str, StudyRow]:
        """The rows that are compared with another; all where none is."""
        return {label: row for label, row in self.rows.items() if row.against is not None} or dict(self.rows)

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that any comparison of the study has."""
        return tuple(phase for phase in PHASES if any(phase in row.phases for row in self.compared.values()))

    def fits(self, setting: StudySetting) -> bool:
        """Whether the study is meant for a setting."""
        return self.settings is None or setting.name in self.settings


@dataclass(frozen=True)
class StudyPlan:
    """What a plan file says, each under its name in capitals: ``SETTINGS = [StudySetting(...), ...]`` and so on."""

    settings: Sequence[StudySetting]
    studies: Sequence[Study]  # by priority: an earlier one is finished, with all seeds, before the next begins
    seeds: Sequence[int] = (0, 1, 2)  # of dense trainings; what starts from the same one is paired
    about: str = 'Measured by `tools/evidence.py`:'  # first and last words of the report's README
    limits: str = ''
    command: str = 'python tools/evidence.py'  # that makes it again
    page_titles: Mapping[str, str] = field(default_factory=dict)


def load_plan(path: str | Path | None = None) -> StudyPlan:
    """What a Python file plans; by default the project's own `study.py`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no settings or no studies.
    """
    path = Path(path or Path(__file__).with_name('study.py'))
    if not path.is_file():
        raise FileNotFoundError(f'plan {path} does not exist')
    names = runpy.run_path(str(path))
    if 'SETTINGS' not in names or 'STUDIES' not in names:
        raise ValueError(
            f'plan {path} has to define SETTINGS and STUDIES, as mmssmprune/analysis/evidence/study.py does'
        )
    said = {part.name: names[part.name.upper()] for part in fields(StudyPlan) if part.name.upper() in names}
    return StudyPlan(**said)


@dataclass(frozen=True)
class Run:
    """A row in one phase with one seed: one result file. In the phase 'training': one dense model."""

    setting: StudySetting
    row: StudyRow
    phase: str
    seed: int
    label: str = ''

    @property
    def dense(self) -> Run:
        """The training of the dense model that it starts from."""
        return Run(self.setting, StudyRow(None), TRAINING, self.seed, 'dense model')

    @property
    def schedule(self) -> dict[str, Any]:
        """Of its training; the learning rate is a share of the dense one."""
        setting, row = self.setting, self.row
        if self.phase == TRAINING:
            return {'iters': setting.dense_iters}
        iters = row.tune_iters or setting.tune_iters
        return {'iters': iters, 'warmup': setting.warmup, 'lr_scale': setting.lr_scale}

    @property
    def pruning(self) -> dict[str, Any] | None:
        """The row's pruning dict, at the setting's level if it says none, and its shape if it says a share of FLOPs."""
        if self.row.pruning is None:
            return None
        pruning, shape = dict(self.row.pruning), dict(input_shape=self.setting.shape)
        if not any(key in pruning for key in LEVEL_KEYS):
            return pruning | dict(flops_reduction=self.setting.flops_reduction) | shape
        return pruning | (shape if 'flops_reduction' in pruning and 'input_shape' not in pruning else {})

    def pruning_at(self, test: int) -> dict[str, Any] | None:
        """The pruning dict of one of the row's tests."""
        if self.pruning is None:
            return None
        change = self.row.tests[test]
        replaced = LEVEL_KEYS if any(key in change for key in LEVEL_KEYS) else ()
        if 'keep_ratio' in change:
            replaced = (*replaced, 'input_shape')
        return {key: value for key, value in self.pruning.items() if key not in replaced} | dict(change)

    @property
    def definition(self) -> dict[str, Any]:
        """All that decides the result besides the seed, the data and the code."""
        setting, row = self.setting, self.row
        definition = {
            'setting': setting.name,
            'dense_iters': setting.dense_iters,
            'shape': list(setting.shape),
            'phase': self.phase,
            'pruning': self.pruning,
            'tests': [dict(test) for test in row.tests],
        }
        if setting.options:
            definition['options'] = dict(setting.options)
        if self.phase == 'tuned':
            definition |= {'schedule': self.schedule, 'cfg': dict(row.cfg)}
        return definition

    @property
    def series(self) -> str:
        """The same for all seeds."""
        words = ['dense'] if self.pruning is None else [str(v) for v in self.pruning.values() if isinstance(v, str)]
        readable = re.sub(r'[^\w.+-]+', '_', '-'.join([self.phase, *words]))[:80]
        return f'{readable}-{digest(self.definition)[:12]}'

    @property
    def id(self) -> str:
        """Names the result; another definition is another run."""
        return f'{self.series}-seed{self.seed}'

    @property
    def name(self) -> str:
        """How messages call it."""
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
        Run(setting, row, phase, seed, f'{study.name}/{label}')
        for study in studies
        for phase in phases
        for seed in seeds
        for setting in settings
        if study.fits(setting)
        for label, row in study.rows.items()
        if phase in row.phases
    )
    runs: dict[tuple[str, str], Run] = {}
    for run in planned:
        if only is None or fnmatch(run.name, only):
            runs.setdefault((run.setting.name, run.id), run)
    return list(runs.values())


# Where the files are, below one folder: work_dirs/evidence unless told otherwise ------------------------------------


def work_dir(root: Path, run: Run) -> Path:
    """Where a run trains; a dense model is shared by all studies of the folder."""
    setting = root / run.setting.name
    return setting / 'dense' / f'seed{run.seed}' if run.phase == TRAINING else setting / 'runs' / run.id


def checkpoint_file(root: Path, run: Run) -> Path:
    """Where a finished training leaves its weights."""
    return work_dir(root, run) / f'iter_{run.schedule["iters"]}.pth'


def result_file(root: Path, run: Run) -> Path:
    """A run whose result is there, and whole, is done."""
    return root / run.setting.name / 'results' / f'{run.id}.json'


def error_file(root: Path, run: Run) -> Path:
    """What a run that failed has printed."""
    return root / run.setting.name / 'errors' / f'{run.id}.txt'


def printed_file(root: Path, run: Run) -> Path:
    """What a run prints while it works; a file there says no more than that it began once."""
    return error_file(root, run).with_suffix('.running')
