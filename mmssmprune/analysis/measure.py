"""The measurements behind one row of a table: looked up in the store, or made and stored."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from torch import nn

import mmssmprune

from .entries import Entry
from .evaluate import KeepRatio, apply_keep_ratio, build_model, evaluate, solve_plan
from .flops import count_flops
from .inputs import count_proposals, first_test_image, full_proposals, noise_image, prepare_inputs
from .latency import describe_device, measure_latency, turns
from .results import ResultStore


@dataclass(frozen=True)
class Row:
    """One line of a table: a model at a keep ratio."""

    entry: Entry
    keep_ratio: KeepRatio


@dataclass
class Setting:
    """Where and how the rows of one comparison are measured.

    Attributes:
        out_dir: raw results go to ``results/``, logs to ``logs/`` below it.
        shape: (H, W) at which FLOPs and latency are stated; None for the first test image's size.
        latency_runs: timed runs per row, 0 for no latency.
        progress: told what long step is at work, and how many of how many parts of it are done.
    """

    out_dir: Path
    shape: tuple[int, int] | None = None
    latency_runs: int = 20
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    def __post_init__(self) -> None:
        self.store = ResultStore(self.out_dir / 'results')
        self._models: dict[Entry, nn.Module] = {}

    def model(self, entry: Entry) -> nn.Module:
        """The entry's built model, kept for the next measurement of it."""
        if entry not in self._models:
            self._models[entry] = build_model(entry)
        return self._models[entry]

    def forget_models(self) -> None:
        """Free the memory that `model` holds."""
        self._models.clear()


def config_keep_ratio(entry: Entry, setting: Setting) -> KeepRatio:
    """The keep ratio that an entry's config asks for, solved where the config sets a target instead.

    Raises:
        ValueError: the target cannot be met.
    """
    if entry.keep_ratio is not None:
        return entry.keep_ratio
    key = {'what': 'plan', 'model': entry.name, 'config': entry.model_hash, **software()}
    value = setting.store.get(key)
    if value is None:
        value = {'keep_ratio': solve_plan(entry)}
        setting.store.put(key, value)
    return value['keep_ratio']


def measure_accuracy(rows: Sequence[Row], setting: Setting) -> list[dict[str, Any]]:
    """Test what the store does not have; one Runner per model."""
    for entry in dict.fromkeys(row.entry for row in rows):
        missing = [
            row.keep_ratio
            for row in rows
            if row.entry is entry and setting.store.get(_accuracy_key(entry, row.keep_ratio)) is None
        ]
        if missing:
            evaluate(
                entry,
                missing,
                setting.out_dir / 'logs' / entry.name.replace('/', '_'),
                on_result=lambda ratio, value, entry=entry: setting.store.put(_accuracy_key(entry, ratio), value),
                on_batch=lambda ratio, done, total, entry=entry: setting.progress(
                    f'testing {entry.name} at keep ratio {ratio}', done, total
                ),
            )
    return [setting.store.get(_accuracy_key(row.entry, row.keep_ratio)) for row in rows]


def _accuracy_key(entry: Entry, keep_ratio: KeepRatio) -> dict[str, Any]:
    return {
        'what': 'accuracy',
        'model': entry.name,
        'config': entry.config_hash,
        'checkpoint': entry.checkpoint_hash,
        'data': entry.data_hash,
        'keep_ratio': keep_ratio,
        **software(),
    }


def default_shape(entry: Entry, setting: Setting) -> tuple[int, int]:
    """(H, W) of the first test image after test pipeline and padding."""
    inputs = prepare_inputs(setting.model(entry), first_test_image(entry.cfg))['inputs']
    return tuple(inputs.shape[-2:])


def measure_cost(row: Row, shape: tuple[int, int], setting: Setting) -> dict[str, Any]:
    """FLOPs, parameters and tokens of one row; they depend on neither weights nor image."""
    key = {
        'what': 'cost',
        'model': row.entry.name,
        'config': row.entry.model_hash,
        'keep_ratio': row.keep_ratio,
        'shape': list(shape),
        'device_type': str(get_device()),
        **software(),
    }
    value = setting.store.get(key)
    if value is None:
        what = f'counting FLOPs of {row.entry.name} at keep ratio {row.keep_ratio}'
        setting.progress(what, 0, 1)
        value = _count_cost(row, shape, setting.model(row.entry))
        setting.progress(what, 1, 1)
        setting.store.put(key, value)
    return value


def _count_cost(row: Row, shape: tuple[int, int], model: nn.Module) -> dict[str, Any]:
    apply_keep_ratio(model, row.entry, row.keep_ratio)
    inputs = prepare_inputs(model, noise_image(shape), shape)
    with full_proposals(model):
        flops = count_flops(model, lambda: model(**inputs, mode='tensor'))
    padded = tuple(inputs['inputs'].shape[-2:])
    return {
        'flops': {'backbone': flops.backbone, 'neck': flops.neck, 'heads': flops.heads, 'total': flops.total},
        'flops_per_op': flops.per_op,
        'flops_unsupported': flops.unsupported,
        'padded_shape': list(padded),
        'proposals': count_proposals(model),
        'params': {'backbone': count_parameters(model.backbone), 'total': count_parameters(model)},
        'tokens': count_tokens(model.backbone, padded),
    }


def count_parameters(module: nn.Module) -> int:
    """All parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_tokens(backbone: nn.Module, shape: tuple[int, int]) -> dict[str, Any] | None:
    """Tokens that each layer processes, and their mean share of the full grid; None for other backbones."""
    if not hasattr(backbone, 'tokens_per_layer'):
        return None
    per_layer = [int(number) for number in backbone.tokens_per_layer(shape)]
    return {'per_layer': per_layer, 'mean_share': sum(per_layer) / (len(per_layer) * max(per_layer))}


def measure_latencies(rows: Sequence[Row], shape: tuple[int, int], setting: Setting) -> list[dict[str, Any]]:
    """Latency of all rows of a table, measured together, because only then can they be compared."""
    key = {
        'what': 'latency',
        'model': rows[0].entry.task.name,
        'rows': [[row.entry.model_hash, row.entry.checkpoint_hash, row.keep_ratio] for row in rows],
        'shape': list(shape),
        'runs': setting.latency_runs,
        'device': describe_device(get_device()),
        **software(),
    }
    value = setting.store.get(key)
    if value is None:
        value = _time_rows(rows, shape, setting)
        setting.store.put(key, value)
    return value


def _time_rows(rows: Sequence[Row], shape: tuple[int, int], setting: Setting) -> list[dict[str, Any]]:
    image = first_test_image(rows[0].entry.cfg)
    calls, row_of = {}, {}
    for i, row in enumerate(rows):
        model = setting.model(row.entry)
        inputs = prepare_inputs(model, image, shape)
        calls[f'{i} model'] = partial(model, **inputs, mode='predict')
        calls[f'{i} backbone'] = partial(model.backbone, inputs['inputs'])
        row_of |= {f'{i} model': row, f'{i} backbone': row}
    total, done = turns(setting.latency_runs) * len(calls), count(1)

    def before_turn(name: str) -> None:
        apply_keep_ratio(setting.model(row_of[name].entry), row_of[name].entry, row_of[name].keep_ratio)

    def after_turn(name: str) -> None:
        setting.progress(f'timing {len(rows)} rows in turns', next(done), total)

    times = measure_latency(calls, get_device(), setting.latency_runs, before_turn=before_turn, after_turn=after_turn)
    return [{'latency': {'model': times[f'{i} model'], 'backbone': times[f'{i} backbone']}} for i in range(len(rows))]


@cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {name: import_module(name).__version__ for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg')}
    return {'mmssmprune': mmssmprune.__version__, 'python': platform.python_version(), **found}


@cache
def software() -> dict[str, Any]:
    """Versions and our own source: a changed model must not find results of the old one."""
    source = hashlib.sha256()
    root = Path(mmssmprune.__file__).parent
    for path in sorted(path for part in ('ops', 'pruning', 'models') for path in (root / part).rglob('*.py')):
        source.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return {'versions': versions(), 'source': source.hexdigest()[:16]}
