"""Read checkpoint files without running code that a file may carry."""

from __future__ import annotations

import argparse
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

_REMOTE_MARK = '://'
_KEEP_WEIGHTS = (
    'if you trust it, keep only its weights, where the packages that wrote it are installed: python -c '
    "\"import torch; c = torch.load('{name}', map_location='cpu', weights_only=False); "
    "torch.save({{k: c[k] for k in ('state_dict', 'model') if k in c}}, 'weights.pth')\""
)


def check_checkpoint_file(path: str) -> None:
    """Refuse a checkpoint path that cannot be loaded; addresses of other kinds (``https://...``) are left alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short, or no checkpoint at all.
    """
    if _REMOTE_MARK in path:
        return
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    if not is_complete_checkpoint(path):
        raise ValueError(f'checkpoint {path} is cut short or no file that torch.save wrote')


def is_complete_checkpoint(path: str | Path) -> bool:
    """Whether a file looks like all of what ``torch.save`` wrote.

    torch writes a zip archive whose directory comes last, so a file cut short by ``kill -9`` has none. Files of the
    older pickle format show no such sign and pass when they begin like one.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        return False
    with path.open('rb') as file:
        start = file.read(2)
    return zipfile.is_zipfile(path) if start == b'PK' else start == b'\x80\x02'


def read_checkpoint(path: str, map_location: str = 'cpu') -> Any:
    """Load a checkpoint through ``torch.load(weights_only=True)``, so that unpickling it runs no code.

    mmengine's own loader falls back to ``weights_only=False`` where torch refuses a file. This one does not. Addresses
    other than ``http(s)://`` are left to mmengine.

    Args:
        path: A file or an address; what is fetched goes to torch's cache.
        map_location: As for ``torch.load``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or asks for objects that are not on the list; says what to do about it.
    """
    if _REMOTE_MARK in path and not path.startswith(('http://', 'https://')):
        with training_state_allowed():
            return CheckpointLoader.load_checkpoint(path, map_location=map_location, logger='silent')
    if _REMOTE_MARK not in path:
        _refuse_old_archives(path)
        check_checkpoint_file(path)
    try:
        with training_state_allowed():
            return _fetch(path, map_location) if _REMOTE_MARK in path else _load(path, map_location)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        sentence = _why_unreadable(path, str(error))
    raise ValueError(sentence)


@contextmanager
def training_state_allowed() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)``, torch's default, read what mmengine and Vim store beside the weights.

    These are log histories, NumPy scalars and the ``argparse.Namespace`` of a training script. Nothing on the list
    runs code of the file: torch calls listed functions only, and what ``getattr`` returns is not listed.
    """
    core = np._core if hasattr(np, '_core') else np.core
    dtypes = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)}
    arrays = [np.ndarray, np.dtype, core.multiarray._reconstruct, core.multiarray.scalar, *dtypes]
    # A HistoryBuffer pickles its bound methods as getattr(buffer, name).
    plain = [argparse.Namespace, HistoryBuffer, getattr, *arrays]
    if not hasattr(torch.serialization, 'safe_globals'):  # torch 2.4 has a list, but no context for it
        torch.serialization.add_safe_globals(plain)
        yield
        return
    with torch.serialization.safe_globals(plain):
        yield


def _load(path: str, map_location: str) -> Any:
    return torch.load(Path(path).expanduser(), map_location=map_location, weights_only=True)


def _fetch(url: str, map_location: str) -> Any:
    """Rank 0 first, so that the others find the file in the cache."""
    if get_rank() > 0:
        barrier()
    try:
        return torch.hub.load_state_dict_from_url(url, map_location=map_location, weights_only=True)
    finally:
        if get_rank() == 0:
            barrier()


def _refuse_old_archives(path: str) -> None:
    if not Path(path).expanduser().is_file() or not tarfile.is_tarfile(Path(path).expanduser()):
        return
    raise ValueError(
        f'checkpoint {path} is in the tar format of PyTorch 0.1, which can only be read by running the code in it; '
        + _KEEP_WEIGHTS.format(name=path)
    )


def _why_unreadable(path: str, message: str) -> str:
    unlisted = re.search(r'GLOBAL ([\w.]+)', message)
    if unlisted:
        return (
            f'checkpoint {path} asks for {unlisted[1]}, which is no tensor, number, text, argparse.Namespace or NumPy '
            f'array, so it was not loaded: unpickling it could run code; {_KEEP_WEIGHTS.format(name=path)}'
        )
    if 'TorchScript' in message:
        return f'checkpoint {path} is a TorchScript archive, which holds a program; give the file that torch.save wrote'
    return f'checkpoint {path} cannot be read ({" ".join(message.split())[:200]}); fetch it again'
