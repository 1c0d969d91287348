"""Convert the weights of a checkpoint between the official layouts and ours, key by key."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mmssmprune import __version__
from mmssmprune.checkpoints.grids import recorded_grid, with_grid, within
from mmssmprune.checkpoints.keys import compare_state_dict, fit, why_foreign
from mmssmprune.checkpoints.vmamba_names import current_weights, is_vmamba
from mmssmprune.checkpoints.writing import save_checkpoint

from .layouts import (
    OPENMMLAB,
    VIM_DETECTION,
    Architecture,
    Layout,
    find_layout,
    find_task,
    official_layout,
    published_model,
    recognise_architecture,
)
from .report import ConversionReport

State = dict[str, Tensor]

CONVERTER_VERSION = 1
NO_COUNTERPART = (
    "head of the other framework: no published file exists to verify a mapping between detectron2's heads and mmdet's"
)
ROPE_CAUTION = (
    'the file is of a Vim that rotates its features by position before every block (rope), which the Vim of this '
    "package does not: the weights are a start for fine-tuning, and its results before that are not the authors'"
)
DETECTION_CAUTION = (
    'the official detector reads the sum of the residual stream and the last mixer without a norm, which the Vim of '
    'this package normalises: the weights are a start for fine-tuning'
)


def convert_to_ours(
    checkpoint: Any, report: ConversionReport, model: nn.Module | None = None, expected: str | None = None
) -> State:
    """Take the weights out of an official checkpoint and give them the names that this package uses.

    Args:
        checkpoint: What the file holds, as `read_checkpoint` returns it.
        report: Filled with what is done; ``report.source`` names the file in sentences.
        model: A model built from a config, which the weights then have to fit, and to whose grid the position
            embedding is resized. None: they have to fit the published model of their size.
        expected: One of `architectures` that the file has to hold, or None.

    Raises:
        ValueError: No weights of a backbone of ours, another architecture than expected, or keys that do not fit.
    """
    weights = _take_weights(checkpoint, report)
    layout = find_layout(weights)
    if layout is None:
        raise ValueError(
            f'{report.source} holds neither PlainMamba nor Vim weights, nor VMamba ones: expected keys such as '
            f'backbone.layers.0.norm.weight, layers.0.mixer.A_log or layers.0.blocks.0.op.A_logs, found '
            f'{", ".join(list(weights)[:3])}'
        )
    state = _rename(weights, layout, report, back=False, current=_current_names(weights))
    architecture = _recognise(state, report, expected)
    if layout is VIM_DETECTION and 'backbone.norm_f.weight' not in state:
        state['backbone.norm_f.weight'] = torch.ones(architecture.embed_dims)
        report.added['backbone.norm_f.weight'] = 'ones: the official detection model has no final norm'
        report.cautions.append(DETECTION_CAUTION)
    if model is None:
        _check_published(state, architecture, report)
    else:
        state = _fit(state, model, architecture, report)
    return state


def convert_to_official(checkpoint: Any, report: ConversionReport) -> dict[str, State]:
    """The reverse of `convert_to_ours`: the entry of an official file, ``{'state_dict': ...}`` or ``{'model': ...}``.

    Raises:
        ValueError: No weights of a backbone of ours.
    """
    weights = _take_weights(checkpoint, report)
    if find_layout(weights) is not OPENMMLAB:
        raise ValueError(
            f'{report.source} holds no weights of this package: expected keys such as backbone.layers.0.norm.weight, '
            f'found {", ".join(list(weights)[:3])}'
        )
    architecture = _recognise(weights, report)
    layout = official_layout(architecture, report.task, weights)
    state = _rename(weights, layout, report, back=True)
    if layout is VIM_DETECTION and 'backbone.net.norm_f.weight' in state:
        _drop('backbone.net.norm_f.weight', state, report, 'the official detection model has no final norm')
        report.cautions.append(DETECTION_CAUTION)
    return {layout.container: state}


def write_converted(content: dict[str, Any], report: ConversionReport, destination: str | Path) -> None:
    """``content`` (the entry of the weights) with a ``meta`` entry, under the name ``destination`` once it is whole."""
    meta = dict(
        mmssmprune_version=__version__,
        converter_version=CONVERTER_VERSION,
        direction=report.direction,
        source=Path(report.source).name,
        source_sha256=report.source_sha256,
        architecture=report.architecture,
        task=report.task,
        time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    )
    save_checkpoint(dict(meta=meta, **content), destination)


def _take_weights(checkpoint: Any, report: ConversionReport) -> State:
    """The weights of a file, prefixes of DDP removed; its other entries go to the report."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'{report.source} holds a {type(checkpoint).__name__}, no dict with the weights of a model')
    container = next((name for name in ('state_dict', 'model') if isinstance(checkpoint.get(name), Mapping)), None)
    weights = checkpoint if container is None else checkpoint[container]
    if container is not None:
        report.left_entries = {k: type(v).__name__ for k, v in checkpoint.items() if k != container}
    strange = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if not weights or strange:
        what = f'{strange[0]!r} is a {type(weights[strange[0]]).__name__}' if strange else 'it is empty'
        raise ValueError(f'{report.source} holds no model weights under "state_dict" or "model": {what}')
    if all(key.startswith('module.') for key in weights):
        return within(weights, 'module.')
    return with_grid(weights, None)


def _current_names(weights: State) -> dict[str, tuple[str, Tensor]]:
    """Of a VMamba: what its official code calls each weight of a backbone now, and its shape there."""
    start = 'backbone.' if any(key.startswith('backbone.') for key in weights) else ''
    part = within(weights, start)
    return {
        f'{start}{key}': (f'{start}{new}', value)
        for key, (new, value) in (current_weights(part) if is_vmamba(part) else {}).items()
    }


def _rename(
    weights: State,
    layout: Layout,
    report: ConversionReport,
    *,
    back: bool,
    current: Mapping[str, tuple[str, Tensor]] = MappingProxyType({}),
) -> State:
    """Give weights the names of the other side; ``current`` are those that newer official code has for older ones."""
    state: State = with_grid({}, None)
    for key, stored in weights.items():
        reason = why_foreign(key)
        official, value = current.get(key, (key, stored))
        new = layout.rename(official, back=back)
        if reason is not None or new is None:
            report.dropped[key] = reason or NO_COUNTERPART
        elif new in state:
            raise ValueError(f'{report.source} holds two keys for {new}: {key} is the second')
        else:
            state[new] = value
            if key.split('.')[-1] == 'pos_embed':
                state = with_grid(state, recorded_grid(weights, key.rpartition('.')[0]), new.rpartition('.')[0])
            if value is not stored:
                report.adapted[new] = f'the same numbers, {tuple(stored.shape)} seen as {tuple(value.shape)}'
            if new == key:
                report.kept.append(key)
            else:
                report.renamed[key] = new
    if not back and any('rope' in key.split('.') for key in report.dropped):
        report.cautions.append(ROPE_CAUTION)
    return state


def _recognise(state: State, report: ConversionReport, expected: str | None = None) -> Architecture:
    """The architecture of weights in our naming; it and the task go to the report."""
    architecture = recognise_architecture(within(state, 'backbone.'))
    if architecture is None:
        raise ValueError(
            f'{report.source} holds no backbone that this package knows: PlainMamba has keys such as layers.0.mamba.'
            'direction_Bs, Vim has layers.0.mixer.A_b_log (both directions in one block), and VMamba has '
            'layers.0.blocks.0.op.A_logs'
        )
    if expected is not None and architecture.name != expected:
        raise ValueError(f'{report.source} looks like {architecture}, not like {expected}')
    report.architecture = str(architecture)
    report.task = find_task(state)
    return architecture


def _check_published(state: State, architecture: Architecture, report: ConversionReport) -> None:
    if architecture.size is None:
        raise ValueError(f'{report.source} looks like {architecture}; give --config with the model that it belongs to')
    published = published_model(architecture, within(state, 'backbone.'))
    difference = compare_state_dict(published, {k: v for k, v in state.items() if k.startswith('backbone.')})
    if difference:
        raise ValueError(f'{report.source} looks like {architecture}, but is not the published one: {difference}')


def _fit(state: State, model: nn.Module, architecture: Architecture, report: ConversionReport) -> State:
    """Fit the weights to the model of a config: the grid of its position embedding, the modules that it has.

    Every module of which the file holds something has to fit; a backbone for another task may lack what is new.
    """
    own = model.state_dict()
    target = recognise_architecture(within(own, 'backbone.'))
    if target is None or not hasattr(model.backbone, 'adapt_state'):
        raise ValueError('the backbone of the config is none of PlainMamba, PlainMambaAdapter, Vim and VMamba')
    if not target.is_as_large_as(architecture):
        raise ValueError(f'{report.source} looks like {architecture}, but the config builds {target}')
    whole = find_task(own) == report.task and target.family == architecture.family
    held = tuple({f'{key.split(".")[0]}.' for key in state})
    optional = () if whole else tuple(f'backbone.{name}' for name in model.backbone.optional_in_checkpoint)
    before, state = state, with_grid(state, None)
    difference = fit(model, state, held, optional)
    state = with_grid(state, model.backbone.pos_hw, 'backbone')
    for name, value in state.items():
        if value is not before[name]:
            report.adapted[name] = (
                f"resized to the grid of the config's model, {tuple(before[name].shape)} to {tuple(value.shape)}"
            )
    for key in [key for key in before if key not in state]:
        state[key] = before[key]
        _drop(key, state, report, 'the norm of a classifier: detectors and segmentors start with norms of their own')
    for key in [key for key in state if key not in own]:
        module = key.split('.')[0]
        foreign = not any(name.startswith(f'{module}.') for name in own)
        if foreign or not (whole or module != 'backbone'):
            _drop(key, state, report, "the config's model has no such parameter")
    difference = replace(difference, unexpected=[name for name in difference.unexpected if name in state])
    if difference:
        raise ValueError(f'{report.source} looks like {report.architecture}, but does not fit the config: {difference}')
    modules = dict.fromkeys(name.split('.')[0] for name in own)
    report.absent = [name for name in modules if not any(key.startswith(f'{name}.') for key in state)]
    report.absent += [name for name in own if name.startswith('backbone.') and name not in state]
    return state


def _drop(key: str, state: State, report: ConversionReport, reason: str) -> None:
    del state[key]
    source = next((old for old, new in report.renamed.items() if new == key), key)
    if report.renamed.pop(source, None) is None:
        report.kept.remove(key)
    report.dropped[source] = reason
