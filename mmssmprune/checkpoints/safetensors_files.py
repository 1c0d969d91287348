"""Checkpoints as safetensors: weights that hold no code, and beside them, as JSON in the header, what else there is.

The format has no checksums, so this package writes one of the weights into the header. Files of others have none, nor
grids of position embeddings, and hold weights alone.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmssmprune.checkpoints.grids import GRID

SUFFIX = '.safetensors'
# The entry of the header that is ours.
_OURS = 'mmssmprune'
_CONTAINERS = ('state_dict', 'model')


def is_safetensors(start: bytes) -> bool:
    """Whether a file that starts with these bytes, nine at least, may be one: a length, and then JSON."""
    return len(start) >= 9 and start[8:9] == b'{'


def to_bytes(checkpoint: Mapping[str, Any]) -> bytes:
    """A file with the weights of a checkpoint, ``{'state_dict': ...}`` or ``{'model': ...}``, and its ``meta``.

    Whatever else a checkpoint holds (optimizer, message hub) goes on with a training, and is left out.

    Raises:
        ValueError: the package safetensors is not installed.
    """
    library = _library('written')
    container = next(name for name in _CONTAINERS if name in checkpoint)
    state = checkpoint[container]
    # A copy each: two names for one memory, and views, are not allowed in such a file.
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    grids = {
        module: list(record[GRID])
        for module, record in getattr(state, '_metadata', {}).items()
        if isinstance(record, Mapping) and GRID in record
    }
    _, data = _split(library.save(weights))
    ours = {'container': container, 'grids': grids, 'meta': _plain(checkpoint.get('meta', {})), 'sha256': _hash(data)}
    return library.save(weights, {'format': 'pt', _OURS: json.dumps(ours)})


def from_bytes(content: bytes, map_location: Any = 'cpu') -> dict[str, Any]:
    """What `to_bytes` was given: the weights, with their grids, and ``meta``.

    Raises:
        ValueError: the package safetensors is not installed, or the content is damaged (see `damage`).
    """
    library = _library('read')
    ours = _ours(_split(content)[0])
    weights = OrderedDict((name, value.to(map_location)) for name, value in library.load(content).items())
    weights._metadata = OrderedDict(
        (module, {GRID: tuple(map(int, grid))}) for module, grid in ours.get('grids', {}).items()
    )
    return {'meta': ours.get('meta', {}), ours.get('container', 'state_dict'): weights}


def damage(content: bytes) -> str | None:
    """What is wrong with such a file: the end of a sentence, or None."""
    try:
        header, data = _split(content)
        ends = [entry['data_offsets'][1] for name, entry in header.items() if name != '__metadata__']
        if len(data) != max(ends, default=0):
            return 'is cut short, or no file of safetensors'
        expected = _ours(header).get('sha256')
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, RecursionError):
        return 'is cut short, or no file of safetensors'
    if expected is not None and expected != _hash(data):
        return 'is damaged: its weights do not match their checksum; copy or fetch it again'
    return None


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header, and the memory of the tensors."""
    (length,) = struct.unpack('<Q', content[:8])
    return json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]


def _ours(header: Mapping[str, Any]) -> dict[str, Any]:
    """What this package has written into a header; empty in a file of others, ValueError where it is damaged."""
    ours = json.loads(header.get('__metadata__', {}).get(_OURS, '{}'))
    grids = ours.get('grids', {})
    if ours.get('container', 'state_dict') not in _CONTAINERS or not isinstance(ours.get('meta', {}), dict):
        raise ValueError('unknown container')
    sides = [side for grid in grids.values() for side in grid]
    if any(len(grid) != 2 for grid in grids.values()) or not all(type(side) is int for side in sides):
        raise ValueError('a grid is two whole numbers')
    return ours


def _hash(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _plain(value: Any) -> Any:
    """The part of a value that JSON takes: arrays and tensors as lists, tuples too; anything else is left out."""
    if isinstance(value, Mapping):
        kept = {str(key): _plain(part) for key, part in value.items()}
        return {key: part for key, part in kept.items() if part is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Tensor) or hasattr(value, 'tolist'):
        return value.tolist()
    return value if isinstance(value, (str, int, float)) else None


def _library(done: str) -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ValueError(f'safetensors files are {done} by the package of that name: pip install safetensors') from None
    return safetensors.torch
