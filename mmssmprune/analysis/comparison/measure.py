"""The measurements behind one row of a table: looked up in the store, or made and stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from torch import nn

from mmssmprune.analysis.cost.conventions import CONVENTIONS
from mmssmprune.analysis.cost.flops import count_class_tokens, price
from mmssmprune.analysis.cost.meta_forward import record_model
from mmssmprune.analysis.cost.model_cost import count_parameters
from mmssmprune.analysis.inputs import count_proposals, first_test_image, prepare_inputs
from mmssmprune.analysis.json_check import check
from mmssmprune.analysis.results import ResultStore
from mmssmprune.analysis.software import software, source_hash

from .entries import Entry
from .evaluate import KeepRatio, apply_keep_ratio, evaluate, load_model, solve_plan
from .latency import describe_device, measure_latency, turns
from .report_schema import RAW_ACCURACY, RAW_COST, RAW_LATENCY, RAW_PLAN
from .rows import Measured

# What decides a FLOP count besides the packages that `software` hashes.
_COUNTING = ('inputs.py', *(f'cost/{name}.py' for name in ('conventions', 'flops', 'meta_forward', 'operations')))


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
            self._models[entry] = load_model(entry)
        return self._models[entry]

    def forget(self, entry: Entry) -> None:
        """Free the memory of an entry's model."""
        self._models.pop(entry, None)


def config_keep_ratio(entry: Entry, setting: Setting) -> KeepRatio:
    """The keep ratio that an entry's config asks for, solved where the config sets a target instead.

    Raises:
        ValueError: the target cannot be met.
    """
    if entry.keep_ratio is not None:
        return entry.keep_ratio
    key = {'what': 'plan', 'model': entry.name, 'config': entry.model_hash, **software()}
    value = setting.store.get(key, _whole(RAW_PLAN))
    if value is None:
        value = {'keep_ratio': solve_plan(entry)}
        setting.store.put(key, value)
    return value['keep_ratio']


def _whole(kind: Any) -> Callable[[Any], Any]:
    """For `ResultStore.get`: a raw result that is damaged is measured again."""

    def read(value: Any) -> Any:
        if wrong := check(value, kind):
            raise ValueError(wrong)
        return value

    return read


def measure_accuracy(rows: Sequence[Row], setting: Setting) -> list[Measured]:
    """Test what the store does not have, one Runner per model, and read the raw results from the store."""
    for entry in dict.fromkeys(row.entry for row in rows):
        missing = [
            row.keep_ratio
            for row in rows
            if row.entry is entry
            and setting.store.get(_accuracy_key(entry, row.keep_ratio), _whole(RAW_ACCURACY)) is None
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
    return [_read_accuracy(row, setting.store) for row in rows]


def _read_accuracy(row: Row, store: ResultStore) -> Measured:
    key = _accuracy_key(row.entry, row.keep_ratio)
    value = store.get(key)
    percent = row.entry.task.percentages(value['metrics'])
    return Measured(percent, value['metrics'], value['num_images'], value['device'], store.path(key).name)


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
        'counting': source_hash(Path(__file__).parents[1], _COUNTING),
        **software(),
    }
    value = setting.store.get(key, _whole(RAW_COST))
    if value is None:
        what = f'counting FLOPs of {row.entry.name} at keep ratio {row.keep_ratio}'
        setting.progress(what, 0, 1)
        value = _count_cost(row, shape, setting.model(row.entry))
        # Neither changes a count; kept so that a reader of the raw result knows what it was made with.
        value |= {'checkpoint': row.entry.checkpoint_hash, 'device': describe_device(get_device())}
        setting.progress(what, 1, 1)
        setting.store.put(key, value)
    return value


def _count_cost(row: Row, shape: tuple[int, int], model: nn.Module) -> dict[str, Any]:
    apply_keep_ratio(model, row.entry, row.keep_ratio)
    operations, padded = record_model(model, shape)
    flops = price(operations, CONVENTIONS['field'], count_class_tokens(model))
    return {
        'flops': flops.parts,
        'flops_per_op': flops.per_op,
        'flops_unsupported': flops.unsupported,
        'flops_left_out': flops.left_out,
        'padded_shape': list(padded),
        'proposals': count_proposals(model),
        'params': {'backbone': count_parameters(model.backbone), 'total': count_parameters(model)},
        'tokens': count_tokens(model.backbone, padded),
        'recipe': describe_recipe(model.backbone),
    }


def describe_recipe(backbone: nn.Module) -> dict[str, Any] | None:
    """The pruning of a built backbone with its defaults filled in, without how much it prunes; None if it is dense.

    Choices that have no effect on a reduction are left out: `merge` and `evit` bring their own.
    """
    pruner = getattr(backbone, 'pruner', None)
    if pruner is None or pruner.plan is None:
        return None
    recipe = {'reduction': pruner.names['reduction'], 'layers': list(pruner.plan.layers)}
    if pruner.names['reduction'] == 'prune':
        recipe |= {name: pruner.names[name] for name in ('importance', 'restoration')}
    return recipe | {name: pruner.names[name] for name in ('alignment', 'conv_fill', 'regime')}


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
    value = setting.store.get(key, _whole(RAW_LATENCY))
    if value is None or len(value) != len(rows):
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
    device = describe_device(get_device())
    return [
        {'model': times[f'{i} model'], 'backbone': times[f'{i} backbone'], 'device': device} for i in range(len(rows))
    ]
