"""The measurements behind the rows of a table: looked up in the store, or made and stored."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn

from mmssmprune import analysis
from mmssmprune.analysis.cost.conventions import CONVENTIONS
from mmssmprune.analysis.cost.flops import count_class_tokens, price
from mmssmprune.analysis.cost.meta_forward import record_model
from mmssmprune.analysis.cost.model_cost import count_parameters
from mmssmprune.analysis.inputs import count_proposals, first_test_image, first_test_shape, prepare_inputs
from mmssmprune.analysis.json_check import ValueKind, check
from mmssmprune.analysis.latency import describe_device, measure_latency, turns
from mmssmprune.analysis.quiet import quiet
from mmssmprune.analysis.results import ResultStore
from mmssmprune.analysis.software import software, source_hash
from mmssmprune.analysis.tasks import numbers_in
from mmssmprune.engine.loading import build_model
from mmssmprune.engine.runner_setup import build_runner
from mmssmprune.models import set_keep_ratio

from .entries import Entry
from .forms import FORMS, make_form, room_for_graphs
from .report import RAW_ACCURACY, RAW_ACCURACY_OF_CLASSES, RAW_COST, RAW_LATENCY, RAW_PLAN, Measured

KeepRatio = float | list[float]
# How PerClassIoUMetric calls the IoU of a class, with the prefix that a config may give it.
_OF_CLASS = re.compile(r'(?:.*/)?IoU\.(.+)')
# What decides a FLOP count besides the packages that `software` hashes.
_COUNTING = ('inputs.py', *(f'cost/{name}.py' for name in ('conventions', 'flops', 'meta_forward', 'operations')))


@dataclass(frozen=True, eq=False)
class Variant:
    """A model at a keep ratio: what becomes one row."""

    entry: Entry
    keep_ratio: KeepRatio


@dataclass
class MeasureSetting:
    """Where and how the rows of one comparison are measured.

    Attributes:
        out_dir: raw results go to ``results/``, logs to ``logs/`` below it.
        shape: (H, W) at which FLOPs and latency are stated; None for the first test image's size.
        latency_runs: timed runs per row, 0 for no latency.
        batch_sizes: of batches for which the images per second are measured.
        forms: of the backbone, names of `FORMS`, in which the rows are timed; 'eager' always is.
        per_class: test anew what was tested before classes were kept, and show them.
        progress: told what long step is at work, and how many of how many parts of it are done.
    """

    out_dir: Path
    shape: tuple[int, int] | None = None
    latency_runs: int = 20
    batch_sizes: tuple[int, ...] = ()
    forms: tuple[str, ...] = ()
    per_class: bool = False
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    def __post_init__(self) -> None:
        self.forms = tuple(dict.fromkeys(('eager', *self.forms)))
        if unknown := [form for form in self.forms if form not in FORMS]:
            raise ValueError(f'there is no form {unknown[0]} of a backbone, but {", ".join(FORMS)}')
        self.store = ResultStore(self.out_dir / 'results')
        self._models: dict[Entry, nn.Module] = {}

    def model(self, entry: Entry) -> nn.Module:
        """The entry's model in eval mode, with its checkpoint if it has one; kept for its next measurement."""
        if entry not in self._models:
            with quiet():
                self._models[entry] = build_model(entry.cfg, entry.checkpoint and str(entry.checkpoint))
        return self._models[entry]

    def forget(self, entry: Entry) -> None:
        """Free the memory of an entry's model."""
        self._models.pop(entry, None)

    def stored(self, key: dict[str, Any], kind: Any, make: Callable[[], Any] | None = None) -> Any | None:
        """The store's value under a key; where there is none, or a damaged one, what ``make`` gives, stored as well."""
        value = self.store.get(key)
        if value is not None and not check(value, kind):
            return value
        if make is None:
            return None
        self.store.put(key, made := make())
        return made


def config_keep_ratio(entry: Entry, setting: MeasureSetting) -> KeepRatio:
    """The keep ratio that an entry's config asks for, solved where the config sets a target instead.

    Raises:
        ValueError: the target cannot be met.
    """

    def solve() -> dict[str, float]:
        init_default_scope(entry.cfg.get('default_scope', 'mmengine'))
        with quiet():
            backbone = MODELS.build(entry.cfg.model.backbone)
        return {'keep_ratio': backbone.pruner.plan.keep_ratios[0]}

    if entry.keep_ratio is not None:
        return entry.keep_ratio
    key = {'what': 'plan', 'model': entry.name, 'config': entry.model_hash, **software()}
    return setting.stored(key, RAW_PLAN, solve)['keep_ratio']


# Accuracy -------------------------------------------------------------------------------------------------------------


def measure_accuracy(variants: Sequence[Variant], setting: MeasureSetting) -> dict[Variant, Measured]:
    """Test what the store does not have, one Runner per model, and read the raw results from the store."""

    def show(entry: Entry, ratio: KeepRatio, done: int, total: int) -> None:
        setting.progress(f'testing {entry.name} at keep ratio {ratio}', done, total)

    def store(entry: Entry, ratio: KeepRatio, value: dict[str, Any]) -> None:
        of_class = {name: _OF_CLASS.fullmatch(name) for name in value['metrics']}
        metrics = {name: number for name, number in value['metrics'].items() if not of_class[name]}
        classes = {found[1]: value['metrics'][name] for name, found in of_class.items() if found}
        kept = {**value, 'metrics': metrics, **({'per_class': classes} if classes else {})}
        setting.store.put(_accuracy_key(entry, ratio), kept)

    def known(variant: Variant) -> bool:
        wanted = setting.per_class and _with_classes(variant.entry.cfg) is not variant.entry.cfg
        kind = RAW_ACCURACY_OF_CLASSES if wanted else RAW_ACCURACY
        return setting.stored(_accuracy_key(variant.entry, variant.keep_ratio), kind) is not None

    for entry in dict.fromkeys(variant.entry for variant in variants):
        if missing := [v.keep_ratio for v in variants if v.entry is entry and not known(v)]:
            logs = setting.out_dir / 'logs' / entry.name.replace('/', '_')
            evaluate(entry, missing, logs, partial(store, entry), partial(show, entry))
    found = {}
    for variant in variants:
        key = _accuracy_key(variant.entry, variant.keep_ratio)
        value, file = setting.store.get(key), setting.store.path(key).name
        percent = variant.entry.task.percentages(value['metrics'])
        raw = {name: value[name] for name in ('num_images', 'device')}
        found[variant] = Measured(percent, value['metrics'], **raw, result=file, per_class=value.get('per_class', {}))
    return found


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


def evaluate(
    entry: Entry,
    keep_ratios: Sequence[KeepRatio],
    work_dir: Path,
    on_result: Callable[[KeepRatio, dict[str, Any]], None],
    on_batch: Callable[[KeepRatio, int, int], None] = lambda keep_ratio, done, total: None,
) -> None:
    """Test one checkpoint at several keep ratios: a Runner with the config's own test_dataloader and test_evaluator.

    Args:
        entry: the model.
        keep_ratios: where it is tested; a dense model has only 1.0.
        work_dir: where the Runner writes its logs.
        on_result: called after each test with the keep ratio and ``metrics`` (as the evaluator names them),
            ``num_images`` and ``device`` (as `describe_device` says it).
        on_batch: called before the first and after each batch with the keep ratio, batches done and batches in all.
    """
    with quiet():
        runner = build_runner(_test_config(entry, work_dir), 'test')
        if entry.weights == 'random':  # those that a training from scratch starts with
            set_random_seed(0)
            runner.model.init_weights()
    progress = _TestProgress()
    runner.register_hook(progress)
    for keep_ratio in keep_ratios:
        _apply_keep_ratio(runner.model, entry, keep_ratio)
        progress.report = partial(on_batch, keep_ratio)
        with quiet():
            numbers = numbers_in(runner.test())
        images = len(runner.test_dataloader.dataset)
        on_result(keep_ratio, {'metrics': numbers, 'num_images': images, 'device': describe_device(get_device())})


def _apply_keep_ratio(model: nn.Module, entry: Entry, keep_ratio: KeepRatio) -> None:
    """Set the keep ratio of an entry's built model; a dense one has none and stays as it is."""
    if entry.pruning is not None:
        set_keep_ratio(model, keep_ratio)


def _with_classes(cfg: Config) -> Config:
    """The config with mmseg's IoUMetric replaced by one that gives classes as well; itself where it has none."""
    names = ('mmseg.IoUMetric', 'IoUMetric') if cfg.get('default_scope') == 'mmseg' else ('mmseg.IoUMetric',)

    def gives_iou(evaluator: dict[str, Any]) -> bool:
        asked = 'mIoU' in evaluator.get('iou_metrics', ['mIoU']) and not evaluator.get('format_only')
        return evaluator.get('type') in names and asked

    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    if not any(map(gives_iou, evaluators)):
        return cfg
    from mmssmprune.analysis.per_class import PER_CLASS  # registers it, and brings mmdet and mmseg

    cfg, ours = copy.deepcopy(cfg), {'type': f'mmseg.{PER_CLASS["IoUMetric"]}'}
    cfg.test_evaluator = [{**evaluator, **ours} if gives_iou(evaluator) else evaluator for evaluator in evaluators]
    return cfg


def _test_config(entry: Entry, work_dir: Path) -> Config:
    cfg = copy.deepcopy(_with_classes(entry.cfg))
    cfg.work_dir = str(work_dir)
    cfg.launcher = 'none'
    cfg.load_from, cfg.resume = (None if entry.checkpoint is None else str(entry.checkpoint)), False
    # Names loggers, and a name shared by two Runners would mix them up.
    cfg.experiment_name = f'{entry.name}-{entry.config_hash[:8]}-{entry.checkpoint_hash[:8]}'
    cfg.randomness = {'seed': 0}
    return cfg


class _TestProgress(Hook):
    """Reports the batches of a test."""

    report: Callable[[int, int], None]

    def before_test_epoch(self, runner: Runner) -> None:
        self.report(0, len(runner.test_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.report(batch_idx + 1, len(runner.test_dataloader))


# FLOPs, parameters, tokens --------------------------------------------------------------------------------------------


def default_shape(entry: Entry, setting: MeasureSetting) -> tuple[int, int]:
    """(H, W) of the first test image after test pipeline and padding."""
    return first_test_shape(setting.model(entry), entry.cfg)


def measure_cost(variant: Variant, shape: tuple[int, int], setting: MeasureSetting) -> dict[str, Any]:
    """FLOPs, parameters and tokens of one row; they depend on neither weights nor image."""
    entry = variant.entry

    def count_anew() -> dict[str, Any]:
        what = f'counting FLOPs of {entry.name} at keep ratio {variant.keep_ratio}'
        setting.progress(what, 0, 1)
        value = _count_cost(variant, shape, setting.model(entry))
        setting.progress(what, 1, 1)
        # Neither changes a count; kept so that a reader of the raw result knows what it was made with.
        return value | {'checkpoint': entry.checkpoint_hash, 'device': describe_device(get_device())}

    key = {
        'what': 'cost',
        'model': entry.name,
        'config': entry.model_hash,
        'keep_ratio': variant.keep_ratio,
        'shape': list(shape),
        'device_type': str(get_device()),
        'counting': source_hash(Path(analysis.__file__).parent, _COUNTING),
        **software(),
    }
    return setting.stored(key, RAW_COST, count_anew)


def _count_cost(variant: Variant, shape: tuple[int, int], model: nn.Module) -> dict[str, Any]:
    _apply_keep_ratio(model, variant.entry, variant.keep_ratio)
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
        'tokens': _count_tokens(model.backbone, padded),
        'recipe': _describe_recipe(model.backbone),
    }


def _count_tokens(backbone: nn.Module, shape: tuple[int, int]) -> dict[str, Any] | None:
    """Tokens that each layer processes, and their mean share of its full grid; None for other backbones."""
    if not hasattr(backbone, 'tokens_per_layer'):
        return None
    per_layer = [int(number) for number in backbone.tokens_per_layer(shape)]
    whole = backbone.dense_tokens_per_layer(backbone.grids_of(shape))
    share = sum(map(Fraction, per_layer, whole)) / len(whole)
    return {'per_layer': per_layer, 'mean_share': float(share)}


def _describe_recipe(backbone: nn.Module) -> dict[str, Any] | None:
    """The pruning of a built backbone with its defaults filled in, without how much it prunes; None if it is dense.

    Choices that have no effect on a reduction are left out.
    """
    pruner = getattr(backbone, 'pruner', None)
    if pruner is None or pruner.plan is None:
        return None
    recipe = {'reduction': pruner.names['reduction'], 'layers': list(pruner.plan.layers)}
    needs = {'importance': 'score', 'restoration': 'restoration'}
    own = [kind for kind, need in needs.items() if pruner.needs(need, 'reduction')]
    return recipe | {name: pruner.names[name] for name in (*own, 'alignment', 'conv_fill', 'scan_fill', 'regime')}


# Latency --------------------------------------------------------------------------------------------------------------


def measure_latencies(
    variants: Sequence[Variant], shape: tuple[int, int], setting: MeasureSetting
) -> dict[Variant, dict[str, Any]]:
    """Latency of all rows of a table, measured together, because only then can they be compared."""
    if not variants:
        return {}
    key = {
        'what': 'latency',
        'model': variants[0].entry.task.name,
        'rows': [[v.entry.model_hash, v.entry.checkpoint_hash, v.keep_ratio] for v in variants],
        'shape': list(shape),
        'runs': setting.latency_runs,
        'device': describe_device(get_device()),
        **({'batch_sizes': list(setting.batch_sizes)} if setting.batch_sizes else {}),
        **({'forms': list(setting.forms)} if len(setting.forms) > 1 else {}),
        **software(),
    }
    as_many = ValueKind('one for each row', lambda value: not check(value, RAW_LATENCY) and len(value) == len(variants))
    times = setting.stored(key, as_many, lambda: _time(variants, shape, setting))
    return dict(zip(variants, times, strict=True))


@dataclass
class _TimedCall:
    """Whose call, the backbone that the whole model has meanwhile, and the call."""

    variant: Variant
    backbone: nn.Module
    call: Callable[[], Any]


def _time(variants: Sequence[Variant], shape: tuple[int, int], setting: MeasureSetting) -> list[dict[str, Any]]:
    image, device = first_test_image(variants[0].entry.cfg), get_device()
    own = {variant.entry: setting.model(variant.entry).backbone for variant in variants}

    def prepare(name: str) -> None:
        entry, model = timed[name].variant.entry, setting.model(timed[name].variant.entry)
        model.backbone = own[entry]  # which has the keep ratio, and of which some forms are made
        _apply_keep_ratio(model, entry, timed[name].variant.keep_ratio)
        model.backbone = timed[name].backbone

    with room_for_graphs(len(variants)) if 'compile' in setting.forms else nullcontext():
        rows = (_calls_of_row(variant, image, shape, setting) for variant in variants)
        timed = {f'{i} {name}': call for i, calls in enumerate(rows) for name, call in calls.items()}
        total, done = turns(setting.latency_runs) * len(timed), count(1)
        times = measure_latency(
            {name: call.call for name, call in timed.items()},
            device,
            setting.latency_runs,
            before_turn=prepare,
            after_turn=lambda name: setting.progress(f'timing {len(variants)} rows in turns', next(done), total),
        )
    for entry, backbone in own.items():
        setting.model(entry).backbone = backbone
    described = describe_device(device)
    return [_times_of_row(i, times, setting) | {'device': described} for i in range(len(variants))]


def _calls_of_row(
    variant: Variant, image: Tensor, shape: tuple[int, int], setting: MeasureSetting
) -> dict[str, _TimedCall]:
    """What is timed of a row, by name; a batch that does not fit into the memory is left out."""
    entry, model = variant.entry, setting.model(variant.entry)
    inputs, backbone = prepare_inputs(model, image, shape), model.backbone
    _apply_keep_ratio(model, entry, variant.keep_ratio)
    calls = {}
    for form in setting.forms:
        setting.progress(f'making the form {form} of {entry.name}', 0, 1)
        made = make_form(form, backbone, inputs['inputs'], entry.name)
        calls[f'{form} model'] = _TimedCall(variant, made, partial(model, **inputs, mode='predict'))
        calls[f'{form} backbone'] = _TimedCall(variant, made, partial(made, inputs['inputs']))
    for size in setting.batch_sizes:
        setting.progress(f'trying batches of {size} of {entry.name}', 0, 1)
        call = partial(model, **_repeated(inputs, size), mode='predict')
        if _fits(call):
            calls[f'batch {size}'] = _TimedCall(variant, backbone, call)
    return calls


def _times_of_row(i: int, times: Mapping[str, dict[str, Any]], setting: MeasureSetting) -> dict[str, Any]:
    forms = {form: {part: times[f'{i} {form} {part}'] for part in ('model', 'backbone')} for form in setting.forms}
    batches = {str(size): times.get(f'{i} batch {size}') for size in setting.batch_sizes}
    more = {'forms': forms, 'batches': batches}
    return {**forms.pop('eager'), **{name: of for name, of in more.items() if of}}


def _repeated(inputs: dict[str, Any], size: int) -> dict[str, Any]:
    """A batch of ``size`` times the same image."""
    samples = [copy.deepcopy(sample) for sample in inputs['data_samples'] * size]
    return {'inputs': inputs['inputs'].repeat(size, 1, 1, 1), 'data_samples': samples}


def _fits(call: Callable[[], Any]) -> bool:
    """Whether a batch fits into the GPU's memory."""
    try:
        with torch.no_grad():
            call()
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True
