"""Backbones by name for any project: torch alone is enough to build, load, save and run one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmssmprune._mmengine import MODELS
from mmssmprune.checkpoints.loading import load_weights
from mmssmprune.checkpoints.official.layouts import FAMILIES, OPENMMLAB, VIM_DETECTION, architectures, find_layout
from mmssmprune.checkpoints.reading import read_checkpoint, weights_of
from mmssmprune.checkpoints.safetensors_files import to_bytes
from mmssmprune.checkpoints.writing import write_whole
from mmssmprune.pruning.plan import TARGETS

from .backbones.base import PrunableBackbone

CONFIG_FILE, WEIGHTS_FILE = 'config.json', 'model.safetensors'
_FILES = ('.pth', '.pt', '.bin', '.ckpt', '.safetensors')  # what ends so and is not there was meant to be a file


def list_backbones() -> list[str]:
    """The names that `create_backbone` knows: plain_mamba_l1, vim_tiny, vmamba_tiny and so on."""
    return architectures()


def create_backbone(
    name: str,
    *,
    pruning: Mapping[str, Any] | None = None,
    pretrained: str | Path | None = None,
    out_indices: int | tuple[int, ...] | None = None,
    **settings: Any,
) -> PrunableBackbone:
    """Build a backbone: (B, 3, H, W) -> a tuple of maps (B, C, h, w), channels and strides in its ``feature_info``.

    Args:
        name: one of `list_backbones`.
        pruning: the `pruning` dict, or None for the dense model.
        pretrained: a checkpoint file or address (official, of this package, safetensors or not), a folder that
            `save_pretrained` wrote, or the name of one on the Hugging Face hub; position embeddings are resized.
        out_indices: layers (VMamba: stages) whose output is returned; None for the class's own default.
        settings: further arguments of the class, such as ``img_size`` or ``drop_path_rate``.

    Raises:
        ValueError: an unknown name or setting, or weights of another architecture.
        FileNotFoundError: there is no such checkpoint.
    """
    known = _known_backbones()
    if name not in known:
        raise ValueError(f'there is no backbone {name!r}; the names are {", ".join(known)}')
    family, arch = known[name]
    given = dict(settings) | ({} if out_indices is None else {'out_indices': out_indices})
    backbone = _build(family, given | {'arch': arch}, pruning)
    if pretrained is not None:
        _load(backbone, str(pretrained))
    return backbone


def save_pretrained(backbone: PrunableBackbone, folder: str | Path) -> None:
    """Write a backbone of `create_backbone` as config.json and model.safetensors, the layout of the Hugging Face hub.

    Raises:
        ValueError: the backbone was built otherwise, so that nobody knows its arguments.
        OSError: the folder cannot be written to.
    """
    arguments = getattr(backbone, 'created_with', None)
    if arguments is None:
        raise ValueError('save_pretrained takes a backbone that create_backbone or from_pretrained has built')
    config = {'library_name': 'mmssmprune', **arguments, 'pruning': _solved_pruning(backbone)}
    try:
        text = json.dumps(config, indent=1)
    except TypeError as error:
        raise ValueError(f'the arguments of this backbone do not go into JSON: {error}') from None
    content = to_bytes({'state_dict': backbone.state_dict(), 'meta': {'backbone': config}})
    write_whole(Path(folder) / WEIGHTS_FILE, content)
    write_whole(Path(folder) / CONFIG_FILE, text + '\n')


def from_pretrained(name: str | Path, *, pruning: Mapping[str, Any] | str | None = 'saved') -> PrunableBackbone:
    """The backbone of a folder that `save_pretrained` wrote, or of one on the Hugging Face hub, weights included.

    Args:
        name: the folder, or ``organisation/name`` on the hub, which needs the package huggingface_hub.
        pruning: 'saved' for that of the folder; else as in `create_backbone`.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: the config is none of a backbone, or the weights do not fit it.
    """
    folder = _folder_of(str(name))
    arguments = _read_config(folder / CONFIG_FILE)
    saved = arguments.pop('pruning')
    backbone = _build(arguments['type'], arguments['settings'], saved if pruning == 'saved' else pruning)
    _load(backbone, str(folder / WEIGHTS_FILE))
    return backbone


def _load(backbone: PrunableBackbone, source: str) -> None:
    """Load a file, or what the folder or hub name ``source`` holds, in any layout that this package knows."""
    is_file = Path(source).expanduser().is_file() or '://' in source or source.endswith(_FILES)
    path = source if is_file else str(_folder_of(source) / WEIGHTS_FILE)
    checkpoint = read_checkpoint(path)
    weights = weights_of(checkpoint) if isinstance(checkpoint, Mapping) else {}
    prefix = {OPENMMLAB: 'backbone', VIM_DETECTION: 'backbone.net'}.get(find_layout(weights))
    load_weights(backbone, checkpoint, path, prefix, backbone.optional_in_checkpoint)


def _build(family: str, settings: Mapping[str, Any], pruning: Mapping[str, Any] | None) -> PrunableBackbone:
    try:
        backbone = MODELS.get(family)(**settings, pruning=pruning)
    except TypeError as error:  # an argument that the class does not have
        raise ValueError(f'{family} cannot be built: {error}') from None
    backbone.created_with = {'type': family, 'settings': dict(settings)}
    return backbone


def _solved_pruning(backbone: PrunableBackbone) -> dict[str, Any] | None:
    """The `pruning` dict at work with the plan that a target was solved to, and ratios that were set since."""
    if backbone.pruning is None:
        return None
    plan = backbone.pruner.plan
    of_targets = ('start', 'every', 'input_shape', *TARGETS)
    others = {key: value for key, value in backbone.pruning.items() if key not in of_targets}
    return {**others, 'layers': list(plan.layers), 'keep_ratio': list(plan.keep_ratios)}


def _known_backbones() -> dict[str, tuple[str, str]]:
    """Name -> (class, its arch)."""
    sizes = [(family, size) for family in FAMILIES.values() for size in MODELS.get(family).arch_zoo]
    return dict(zip(architectures(), sizes, strict=True))


def _folder_of(name: str) -> Path:
    """A folder of `save_pretrained` on this machine, fetched from the hub where the name is none of a folder here."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', name):
        raise FileNotFoundError(f'there is no file or folder {name}')
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise FileNotFoundError(
            f'there is no folder {name}; if it is a name on the Hugging Face hub, pip install huggingface_hub'
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(f'{name} is no folder, and the hub gives nothing of that name: {error}') from None


def _read_config(path: Path) -> dict[str, Any]:
    """The arguments in a config.json; raises ValueError where it is none of `save_pretrained`."""
    if not path.is_file():
        raise FileNotFoundError(f'there is no {path.name} in {path.parent}')
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError):
        config = None
    kinds = {'type': str, 'settings': dict, 'pruning': (dict, type(None))}
    if not isinstance(config, dict) or not all(isinstance(config.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f'{path} is no config of save_pretrained: it needs type, settings and pruning')
    if config['type'] not in FAMILIES.values():
        raise ValueError(f'{path} names type {config["type"]!r}; the types are {", ".join(FAMILIES.values())}')
    if 'init_cfg' in config['settings']:  # which would name another file to read
        raise ValueError(f'{path} holds init_cfg, and weights come from {WEIGHTS_FILE}')
    return {key: config[key] for key in kinds}
