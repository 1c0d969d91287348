"""Rows of a report. Where an accuracy comes from is its type, so that ours and published ones cannot change places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

NOT_RUN = 'not run'


@dataclass(frozen=True)
class Measured:
    """Accuracy that this tool measured, in a run whose raw result is kept.

    Attributes:
        percent: metric title -> percent; NaN where the evaluator gave no number.
        raw: the evaluator's own names and numbers.
        num_images: size of the test set.
        device: what it ran on, as `describe_device` says it.
        result: file name of the raw result in ``results/`` of the run's folder.
    """

    percent: Mapping[str, float]
    raw: Mapping[str, float]
    num_images: int
    device: Mapping[str, Any]
    result: str

    def __post_init__(self) -> None:
        if not self.result:
            raise ValueError('a measured accuracy needs the file of its raw result')


@dataclass(frozen=True)
class NotRun:
    """No accuracy, because there is nothing trained to test; ``reason`` says why."""

    reason: str


@dataclass(frozen=True)
class Published:
    """Accuracy that others reported, as `published` reads it from its file; never ours.

    Attributes:
        percent: metric title -> percent.
        citation: where it is from, with an address.
        quoted: only seen in a text that quotes it, not in the source's own table.
        recipe: what it stands for (schedule, input), if the source says it.
    """

    percent: Mapping[str, float]
    citation: str
    quoted: bool = False
    recipe: str = ''


@dataclass(frozen=True)
class Software:
    """What a row was measured with: package versions and a hash of our own source."""

    versions: Mapping[str, str]
    source: str


@dataclass(frozen=True)
class ReportRow:
    """One line of a table.

    Attributes:
        model: its name.
        kind: 'dense', 'pruned', or 'untrained' (random weights: what chance gives).
        keep_ratio: one number, or one per pruning layer.
        ours: what we measured, or that we did not.
        family: backbone and size, such as ``PlainMamba-L1``.
        architecture: type of the whole model, such as ``MaskRCNN``.
        config, checkpoint: files.
        config_hash, checkpoint_hash, dense_model_hash, data_hash: see `Entry`; None where there is none.
        pruning: the backbone's pruning dict, as the config has it.
        recipe: the pruning with its defaults filled in, without what says how much; None for a dense model.
        training: what the config says about the length of the training, and its hooks.
        software: what measured it.
        cost: FLOPs, parameters and tokens, as `measure_cost` gives them; None for untrained rows.
        latency: ``model`` and ``backbone`` as `measure_latency` gives them and ``device``; None where not timed.
        origin: the earlier result that the row was taken from; empty if it is of this run.
        paper: what others published for this config.
        dense: name of the dense baseline; what follows is relative to it and derived anew for every report.
        accuracy_difference: metric title -> percentage points.
        backbone_flops_change: share, negative where FLOPs are saved.
        pareto: metric title -> the axes ('FLOPs', 'latency') on which no other row is better.
    """

    model: str
    kind: str
    keep_ratio: float | list[float]
    ours: Measured | NotRun
    family: str
    architecture: str
    config: str
    config_hash: str
    dense_model_hash: str
    software: Software
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    data_hash: str | None = None
    pruning: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    origin: str = ''
    paper: Published | None = None
    dense: str | None = None
    accuracy_difference: Mapping[str, float] = field(default_factory=dict)
    backbone_flops_change: float | None = None
    pareto: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.ours, (Measured, NotRun)):
            raise TypeError(f'ours holds what this tool measured, or NotRun, not {type(self.ours).__name__}')
        if self.paper is not None and not isinstance(self.paper, Published):
            raise TypeError(f'paper holds what others published, not {type(self.paper).__name__}')

    @property
    def measured(self) -> Mapping[str, float]:
        """Our accuracy, metric title -> percent, where it is a number; empty for a row that was not run."""
        percent = self.ours.percent if isinstance(self.ours, Measured) else {}
        return {title: value for title, value in percent.items() if isfinite(value)}

    @property
    def undefined(self) -> list[str]:
        """Metrics that were measured and came out as no number."""
        percent = self.ours.percent if isinstance(self.ours, Measured) else {}
        return [title for title in percent if title not in self.measured]

    @property
    def backbone_flops(self) -> int | None:
        """Of one image at the table's shape."""
        return self.cost['flops']['backbone'] if self.cost else None

    @property
    def model_ms(self) -> float | None:
        """Median latency of the whole model."""
        return self.latency['model']['median_ms'] if self.latency else None

    def label(self) -> str:
        """Model and keep ratio, to name the row in a sentence."""
        return f'{self.model} at keep ratio {format_keep_ratio(self.keep_ratio)}'


@dataclass(frozen=True)
class ReportTable:
    """All rows of one task.

    Attributes:
        task, title: the task's name and what it is called.
        metrics: titles, in order.
        shape: (H, W) at which FLOPs and latency are stated.
        shape_from: who says so.
        rows: in the order of the command line.
        no_latency: why there is none, for rows that have one elsewhere.
    """

    task: str
    title: str
    metrics: tuple[str, ...]
    shape: tuple[int, int]
    shape_from: str
    rows: tuple[ReportRow, ...]
    no_latency: str = ''

    def with_rows(self, rows: list[ReportRow]) -> ReportTable:
        """The same table with other rows."""
        return replace(self, rows=tuple(rows))


@dataclass(frozen=True)
class Report:
    """Tables, and what is said about all of them."""

    tables: tuple[ReportTable, ...]
    conventions: str
    software: Software
    command: str = ''


def format_keep_ratio(keep_ratio: float | list[float]) -> str:
    """0.7, or 0.9/0.8/0.7 for a ratio per pruning layer."""
    ratios = keep_ratio if isinstance(keep_ratio, (list, tuple)) else [keep_ratio]
    return '/'.join(f'{ratio:.4g}' if ratio != 1 else '1.0' for ratio in ratios)
