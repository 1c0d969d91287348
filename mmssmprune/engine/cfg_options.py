"""``--cfg-options``: settings from the command line, refused where nothing would read them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import mmengine.registry
import mmengine.runner
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from torch.utils.data import DataLoader

from mmssmprune.pruning.pruner import PRUNING_KEYS

# Read from the top level of a config by mmengine, mmdet or mmseg beside the arguments of their runners.
_TOP_LEVEL = {
    *('custom_imports', 'env_cfg', 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'strategy'),
    *(
        'sync_bn',
        'tta_model',
        'tta_pipeline',
        'compile',
        'work_dir',
        'activation_checkpointing',
        'efficient_conv_bn_eval',
    ),
}
_OF_ENV_CFG = {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}
# Taken out of a dict before its class is built.
_POPPED = {
    *('type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based', 'by_epoch', 'requires_grad', 'override'),
    *('constructor', 'paramwise_cfg', 'num_batch_per_epoch'),
}
_DEFAULT_HOOKS = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}
# A new key this like another one of its dict is taken for a typing error where the dict's reader cannot be asked.
_CUTOFF = 0.75


def merge_cfg_options(cfg: Config, options: dict[str, Any]) -> None:
    """Merge ``{'a.b.0.c': value}`` into a config.

    A key has to exist in the config or to be known to what reads it there: mmengine's Runner at the top level, the
    class of a dict with a ``type``, torch's DataLoader, and so on. In a dict that is read by name (``test_cfg`` of a
    model, say) a new key is refused only if it looks like one that is there. ``+a.b`` sets any key.

    Raises:
        ValueError: The first key that nothing reads, with the nearest that is known; or one below a value that holds
            no keys.
    """
    free = {key[1:] for key in options if key.startswith('+')}
    options = {key.removeprefix('+'): value for key, value in options.items()}
    for key in options:
        above = next((other for other in options if key.startswith(f'{other}.')), None)
        if above is not None:
            raise ValueError(f'--cfg-options sets both {above} and {key}, which is a part of it')
    for key in free:
        _find_new(cfg._cfg_dict, key)
    new = [_find_new(cfg._cfg_dict, key, value) for key, value in _flatten(options) if key not in free]
    before = cfg._cfg_dict
    variables = [key for key in options if key in before and key not in free and key not in _readers(cfg, [])[0]]
    cfg.merge_from_dict(options)
    for place in filter(None, new):
        _check_new(cfg, before, *place)
    for key in variables:
        print_log(
            f'--cfg-options {key}: this is a variable of the config file, from which other settings were made when it '
            'was read; they keep their values: set those instead',
            'current',
            level=30,
        )


def _flatten(options: dict[str, Any], above: str = '') -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested dicts, as Python callers give them."""
    for key, value in options.items():
        if isinstance(value, dict) and value and '_delete_' not in value:
            yield from _flatten(value, f'{above}{key}.')
        else:
            yield f'{above}{key}', value


def _find_new(node: Any, key: str, value: Any = None) -> tuple[list[str], str] | None:
    """Follow a dotted key: the path of the dict that lacks the next part and that part, or None if all is there."""
    parts = key.split('.')
    for i, name in enumerate(parts):
        here = '.'.join(parts[:i])
        if isinstance(node, list):
            if not name.isdigit() or int(name) >= len(node):
                raise ValueError(
                    f'--cfg-options {key}: {here} is a list of {len(node)}, whose entries count from {here}.0; to '
                    f'make it longer set all of {here}'
                )
            node = node[int(name)]
        elif isinstance(node, dict):
            if name not in node:
                return parts[:i], name
            node = node[name]
        else:
            raise ValueError(f'--cfg-options {key}: {here} is {node!r} in the config, which has no keys: set all of it')
    holds_settings = isinstance(node, dict) and ('type' in node or len(parts) == 1)
    if holds_settings and value is not None and not isinstance(value, (dict, list, tuple)):
        raise ValueError(f'--cfg-options {key}={value}: {key} is a dict in the config: set what is in it, as {key}.KEY')
    return None


def _check_new(cfg: Config, before: dict, parents: list[str], name: str) -> None:
    known, closed = _readers(cfg, parents)
    node = _at(cfg._cfg_dict, parents)
    if name in known or (parents == ['default_hooks'] and 'type' in (node[name] or {})):
        return
    candidates = known | set(_at(before, parents))
    nearest = get_close_matches(name, sorted(map(str, candidates)), 1, 0.6 if closed else _CUTOFF)
    if closed or nearest:
        key, place = '.'.join([*parents, name]), '.'.join(parents) or 'the top level'
        meant = f'did you mean {".".join([*parents, *nearest])}? To' if nearest else 'to'
        raise ValueError(
            f'--cfg-options {key}: {place} of the config has no {name!r} and nothing would read it; '
            f'{meant} set it all the same, write +{key}=...'
        )


def _at(node: Any, path: list[str]) -> Any:
    for name in path:
        node = node[int(name)] if isinstance(node, (list, tuple)) else node[name]
    return node


def _readers(cfg: Config, parents: list[str]) -> tuple[set[str], bool]:
    """The keys that the reader of a dict takes, and whether those are all."""
    if not parents:
        runners = (mmengine.runner.Runner, mmengine.runner.FlexibleRunner)
        return set().union(_TOP_LEVEL, *(parameters_of(runner)[0] for runner in runners)), True
    node = _at(cfg._cfg_dict, parents)
    kind = node.get('type')
    if parents[-1] == 'pruning' and not kind:
        return set(PRUNING_KEYS), True
    readers = [kind] if callable(kind) else registered(kind, cfg.get('default_scope') or 'mmengine') if kind else []
    if len(parents) == 1 and not kind:
        if parents[0] == 'env_cfg':
            return _OF_ENV_CFG, True
        if parents[0] == 'default_hooks':
            return _DEFAULT_HOOKS, True
        if parents[0] == 'auto_scale_lr':
            return {'base_batch_size', 'enable'}, True
        readers = _BY_DEFAULT.get(parents[0], [])
    found = [parameters_of(reader) for reader in readers]
    return set(_POPPED).union(*(names for names, _ in found)), bool(found) and all(closed for _, closed in found)


def parameters_of(reader: Callable) -> tuple[set[str], bool]:
    """The keyword arguments of a class, through ``**kwargs`` up its bases, or of a function; and if those are all."""
    inits = (
        [vars(base)['__init__'] for base in reader.__mro__[:-1] if '__init__' in vars(base)]
        if isinstance(reader, type)
        else [reader]
    )
    names: set[str] = set()
    for init in inits:
        try:
            parameters = inspect.signature(init).parameters.values()
        except (TypeError, ValueError):  # written in C
            return names, False
        names |= {each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
        if not any(each.kind == each.VAR_KEYWORD for each in parameters):
            return names, True
    return names, False


def registered(kind: str, scope: str) -> list[Callable]:
    """What a config's ``type`` may name: a name can stand for one thing each among models, hooks, metrics ..."""
    with suppress(ImportError):  # which building tells better
        import_module(f'{scope}.registry')  # makes the suite's registries children of mmengine's
    registries = [value for value in vars(mmengine.registry).values() if isinstance(value, Registry)]
    found = (registry.children.get(scope, registry).get(kind) for registry in registries)
    return [reader for reader in found if reader is not None]


_LOOPS = [mmengine.runner.IterBasedTrainLoop, mmengine.runner.EpochBasedTrainLoop]
_BY_DEFAULT: dict[str, list[Callable]] = {
    **{f'{split}_dataloader': [DataLoader] for split in ('train', 'val', 'test')},
    **dict(train_cfg=_LOOPS, val_cfg=[mmengine.runner.ValLoop], test_cfg=[mmengine.runner.TestLoop]),
    **dict(optim_wrapper=[OptimWrapper], log_processor=[mmengine.runner.LogProcessor]),
    **dict(randomness=[mmengine.runner.set_random_seed]),
}
