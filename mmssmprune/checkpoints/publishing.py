"""From the last checkpoint of a training to a file for others: weights, config and metrics, and no more."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmssmprune import __version__

from .keys import extract_state_dict, why_foreign
from .reading import read_checkpoint
from .writing import check_destination, save_checkpoint

# What a reader of the file wants to know of its training; `cfg` is its config as text.
KEPT_META = ('cfg', 'dataset_meta', 'epoch', 'iter', 'seed', 'experiment_name', 'mmengine_version')


def publish(source: str | Path, destination: str | Path, *, force: bool = False) -> tuple[Path, dict[str, Any]]:
    """Write the weights of a checkpoint with config, metrics and hash, under a name that ends with the hash.

    Args:
        source: checkpoint of a training; the log beside it holds the metrics of its last validation.
        destination: where to write, ``.pth`` or ``.safetensors``; the first eight digits of the SHA-256 of the weights
            come before the suffix, as in the published files of OpenMMLab.
        force: replace a file of that name.

    Returns:
        The path written, and ``meta`` as it is in the file.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the checkpoint is damaged, not finite or no model, or the destination exists.
    """
    source, destination = Path(source), Path(destination)
    if destination.suffix not in ('.pth', '.safetensors'):
        raise ValueError(f'{destination} has to end in .safetensors or .pth')
    checkpoint = read_checkpoint(str(source))
    weights = extract_state_dict(checkpoint, str(source))
    for name in [name for name in weights if (why_foreign(name) or '').startswith('second copy')]:
        del weights[name]
    given = checkpoint.get('meta') if isinstance(checkpoint.get('meta'), Mapping) else {}
    digest = _hash_of(weights)
    meta = {key: given[key] for key in KEPT_META if key in given}
    meta |= {
        'mmssmprune_version': __version__,
        'source': source.name,
        'sha256_of_weights': digest,
        'metrics': metrics_of(source.parent, given),
        'published': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    }
    path = destination.with_name(f'{destination.stem}-{digest[:8]}{destination.suffix}')
    check_destination(source, path, force=force, doing='publish')
    save_checkpoint({'meta': meta, 'state_dict': weights}, path)
    return path, meta


def metrics_of(work_dir: Path, meta: Mapping[str, Any]) -> dict[str, float]:
    """What the newest log in a work_dir says of the validation of a checkpoint with this ``meta``; empty if nothing."""
    steps = {meta.get('iter'), meta.get('epoch')} - {None}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True):
        for line in reversed(log.read_text(encoding='utf-8', errors='replace').splitlines()):
            try:
                scalars = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if isinstance(scalars, dict) and scalars.get('step') in steps and 'loss' not in scalars:
                left_out = ('step', 'time', 'data_time')
                return {k: v for k, v in scalars.items() if k not in left_out and isinstance(v, (int, float))}
    return {}


def _hash_of(weights: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and numbers, whatever format they are written in."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        sha.update(f'{name} {value.dtype} {tuple(value.shape)};'.encode())
        sha.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return sha.hexdigest()
