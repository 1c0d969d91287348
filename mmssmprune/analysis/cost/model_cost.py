"""What a model of a config costs: parameters, tokens and FLOPs by part, layer and convention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmssmprune.analysis.inputs import count_proposals
from mmssmprune.models.keep_ratio import keep_ratio_set_to

from .conventions import CONVENTIONS, Convention, convention_for
from .flops import FlopCount, count_class_tokens, price
from .meta_forward import record_model

_USUAL_SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}


def build_without_weights(cfg: Config) -> nn.Module:
    """The model of a config in eval mode, with random weights whatever its init_cfg says.

    Raises:
        ValueError, KeyError, TypeError: the config cannot be built, or its model has no backbone.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model = MODELS.build(cfg.model).eval()
    if not hasattr(model, 'backbone'):
        raise ValueError(f'{type(model).__name__} has no backbone of its own: give the config of the model inside it')
    return model


def usual_shape(cfg: Config) -> tuple[int, int]:
    """(H, W) in pixels at which FLOPs of a config's task are published.

    The pruning's ``input_shape`` if there is one; else, for detection, the size of a square test image (LSJ) or
    800 x 1280, for segmentation 512 x 2048, for classification 224 x 224.
    """
    named = (cfg.model.backbone.get('pruning') or {}).get('input_shape')
    if named:
        return tuple(named)
    scope = cfg.get('default_scope')
    if scope not in _USUAL_SHAPES:
        raise ValueError(f'the config has default_scope {scope!r}, which says no usual image size: give --shape H W')
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    if scope == 'mmdet':
        scales = [step.get('scale') for step in dataset.get('pipeline') or [] if step.get('scale')]
        if scales and isinstance(scales[0], (list, tuple)) and len(set(scales[0])) == 1:
            return tuple(scales[0]) * (2 // len(scales[0]))
    return _USUAL_SHAPES[scope]


def fitting_conventions(model: nn.Module) -> list[str]:
    """Names of the conventions that know the parts of this model's backbone."""
    names = []
    for name in CONVENTIONS:
        try:
            convention_for(name, model)
        except ValueError:
            continue
        names.append(name)
    return names


def model_cost(model: nn.Module, shape: tuple[int, int], conventions: Sequence[str]) -> dict[str, Any]:
    """Count one image through a whole model; only shapes are computed.

    Args:
        model: from `build_without_weights`.
        shape: (H, W) of the image in pixels.
        conventions: names in `CONVENTIONS`.

    Returns:
        A dict that JSON takes: ``shape``, ``padded_shape``, ``proposals``, ``params`` and per convention ``flops`` by
        part; for our backbones also ``layers`` (tokens and FLOPs each) and, where it is pruned, ``plan`` and
        ``dense_flops``; ``unsupported`` lists operators that did arithmetic but have no formula, ``left_out`` names
        heads that do not run without real images, whose FLOPs are missing.

    Raises:
        ValueError: an unknown convention, one of another family, or an image that the backbone does not take.
    """
    rules = {name: convention_for(name, model) for name in conventions}
    operations, padded = record_model(model, shape)
    counts = {name: price(operations, rule, count_class_tokens(model)) for name, rule in rules.items()}
    first = counts[conventions[0]]
    cost = {
        'shape': list(shape),
        'padded_shape': list(padded),
        'proposals': count_proposals(model),
        'params': _params(model),
        'flops': {name: count.parts for name, count in counts.items()},
        'unsupported': first.unsupported,
        'left_out': first.left_out,
    }
    if hasattr(model.backbone, 'tokens_per_layer'):
        cost['layers'] = _layers(model.backbone, counts, padded)
        if model.backbone.pruning is not None:
            cost['plan'] = describe_plan(model.backbone)
            cost['dense_flops'] = _dense_flops(model, shape, rules)
    return cost


def count_parameters(module: nn.Module | None) -> int:
    """All parameters, shared ones once; 0 for a part that a model does not have."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def _params(model: nn.Module) -> dict[str, int]:
    parts = (model.backbone, getattr(model, 'neck', None), model)
    backbone, neck, total = map(count_parameters, parts)
    return {'backbone': backbone, 'neck': neck, 'heads': total - backbone - neck, 'total': total}


def _layers(backbone: nn.Module, counts: dict[str, FlopCount], hw: tuple[int, int]) -> list[dict[str, Any]]:
    paths = {id(module): f'backbone.{path}' for path, module in backbone.named_modules()}
    layers = [paths[id(layer)] for stage in backbone.stages for layer in stage.layers]
    return [
        {'tokens': int(tokens), 'flops': {name: count.per_module.get(path, 0) for name, count in counts.items()}}
        for path, tokens in zip(layers, backbone.tokens_per_layer(hw), strict=True)
    ]


def describe_plan(backbone: nn.Module) -> dict[str, Any]:
    """The pruning at work: layers, the keep ratio after each, and the rest of the `pruning` dict."""
    plan = backbone.pruner.plan
    return {'layers': list(plan.layers), 'keep_ratios': list(plan.keep_ratios), 'pruning': dict(backbone.pruning)}


def _dense_flops(model: nn.Module, shape: tuple[int, int], rules: dict[str, Convention]) -> dict[str, dict[str, int]]:
    with keep_ratio_set_to(model, 1.0):
        operations, _ = record_model(model, shape)
    class_tokens = count_class_tokens(model)
    return {name: price(operations, rule, class_tokens).parts for name, rule in rules.items()}
