"""Read checkpoint files: without running code that a file may carry, and only those that are whole and finite."""

from __future__ import annotations

import argparse
import codecs
import os
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from torch import distributed

from mmssmprune._mmengine import HAS_MMENGINE
from mmssmprune._stack import as_tuple

from . import safetensors_files

if HAS_MMENGINE:
    from mmengine.runner import CheckpointLoader
    from mmengine.runner.checkpoint import load_from_http, load_from_local

_REMOTE_MARK = '://'
_NO_CHECKPOINT = 'is cut short or no file that torch.save wrote'
_KEEP_WEIGHTS = (
    'if you trust it, keep only its weights, where the packages that wrote it are installed: python -c '
    "\"import torch; c = torch.load('{name}', map_location='cpu', weights_only=False); "
    "torch.save({{k: c[k] for k in ('state_dict', 'model') if k in c}}, 'weights.pth')\""
)


def check_checkpoint_file(path: str) -> None:
    """Refuse a checkpoint path that cannot be loaded; addresses of other kinds (``https://...``) are left alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short, damaged, or no checkpoint at all.
    """
    if _REMOTE_MARK in path:
        return
    with _open(path) as file:
        damage = _damage(file)
    if damage:
        raise ValueError(f'checkpoint {path} {damage}')


def is_complete_checkpoint(path: str | Path) -> bool:
    """Whether a file is all of what ``torch.save`` or safetensors wrote, every record as its checksum says.

    torch writes a zip archive whose directory comes last, so a file cut short by ``kill -9`` has none. Files of the
    older pickle format have no checksums either and pass when they begin like one.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        return False
    with path.open('rb') as file:
        return _damage(file) is None


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Any:
    """Load a checkpoint through ``torch.load(weights_only=True)``, or by safetensors, so that reading it runs no code.

    mmengine's own loader falls back to ``weights_only=False`` where torch refuses a file. This one does not. The file
    is opened once: what was checked is what is loaded.

    Args:
        path: A file or an address that mmengine knows; what is fetched goes to torch's cache.
        map_location: As for ``torch.load``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, asks for objects that are not on the list, or holds weights that are not
            finite; says what to do about it.
    """
    path = str(path)
    loader = _loader_of_mmengine(path)
    if loader is not None:
        checkpoint = _load_safely(path, lambda: loader(path, map_location))
    elif _REMOTE_MARK in path:
        kept = _fetch(path)
        checkpoint = _read_file(kept, f'{path} (kept as {kept})', map_location)
    else:
        checkpoint = _read_file(path, path, map_location)
    _refuse_non_finite(checkpoint, path)
    return checkpoint


def _loader_of_mmengine(path: str) -> Any:
    """For open-mmlab://, s3:// and what users register, each with a torch.load of its own; None for files and http."""
    if HAS_MMENGINE:
        loader = CheckpointLoader._get_checkpoint_loader(path)
        return None if loader in (load_from_local, load_from_http) else loader
    if _REMOTE_MARK in path and not path.startswith(('http://', 'https://')):
        raise ValueError(f'{path} is an address that only mmengine reads, which is not installed')
    return None


def weights_of(checkpoint: Mapping[str, Any]) -> Any:
    """What stands for the weights in a checkpoint: ``state_dict``, ``model`` (of Vim and VMamba) or the file itself."""
    return checkpoint.get('state_dict', checkpoint.get('model', checkpoint))


def first_non_finite(state: Mapping[str, Any]) -> str | None:
    """The name of the first NaN or infinite tensor of a state dict, None where all are finite.

    Masks of other people's models, which hold -inf on purpose, do not count.
    """
    tensors = {
        name: value.float() if value.element_size() == 1 else value  # nothing sums numbers of 8 bits
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
        and not value.is_meta
        and value.layout == torch.strided
        and (value.is_floating_point() or value.is_complex())
    }
    # A sum is five times as quick as a look at each number, and a GPU is waited for once instead of per tensor.
    sums = [value.sum().isfinite() for value in tensors.values()]
    if not sums or torch.stack([flag.to(sums[0].device) for flag in sums]).all():
        return None
    suspects = (name for name, flag in zip(tensors, sums, strict=True) if not flag)
    return next(
        (name for name in suspects if not tensors[name].isfinite().all() and not _is_mask(name, tensors[name])), None
    )


class _OlderYacsConfig(dict):
    """What a torch that takes no second name for a type makes of a yacs ``CfgNode``."""


_OlderYacsConfig.__module__, _OlderYacsConfig.__qualname__ = 'yacs.config', 'CfgNode'
_OlderYacsConfig.__name__ = 'CfgNode'


@contextmanager
def training_state_allowed() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)``, torch's default, read what mmengine and Vim store beside the weights.

    These are log histories, NumPy scalars, the ``argparse.Namespace`` of a training script and VMamba's yacs config,
    which becomes a dict whether or not yacs is there. Nothing on the list runs code of the file: torch calls listed
    functions only, and what ``getattr`` returns is not listed.
    """
    config = _OlderYacsConfig if as_tuple(torch.__version__) < (2, 6) else (OrderedDict, 'yacs.config.CfgNode')
    # Arrays pickle their bytes as codecs.encode(text), which torch lists itself since 2.5.
    plain = [argparse.Namespace, slice, codecs.encode, set, config, *_of_numpy(), *_of_mmengine()]
    if not hasattr(torch.serialization, 'safe_globals'):  # torch 2.4 has a list, but no context for it
        torch.serialization.add_safe_globals(plain)
        yield
        return
    with torch.serialization.safe_globals(plain):
        yield


def _of_numpy() -> list[Any]:
    try:
        import numpy as np
    except ImportError:  # torch does without
        return []
    core = np._core if as_tuple(np.__version__) >= (2,) else np.core
    rebuild = [core.multiarray._reconstruct, core.multiarray.scalar]
    if as_tuple(torch.__version__) >= (2, 6):  # NumPy 2 and those before it write different names for the same
        rebuild = [(f, f'numpy.{name}.multiarray.{f.__name__}') for f in rebuild for name in ('core', '_core')]
    return [np.ndarray, np.dtype, *rebuild, *{type(np.dtype(kind)) for kind in '?bBhHiIlLqQefdFD'}]


class _History:
    """In the place of mmengine's log history, which nobody reads where mmengine is not installed."""

    min = max = current = mean = None


_History.__module__, _History.__name__ = 'mmengine.logging.history_buffer', 'HistoryBuffer'
_History.__qualname__ = _History.__name__


def _of_mmengine() -> list[Any]:
    """Its log history, which pickles its methods as getattr(class, name)."""
    if not HAS_MMENGINE:
        return [_History, getattr]
    from mmengine.logging import HistoryBuffer

    return [HistoryBuffer, getattr]


def _open(path: str | Path) -> BinaryIO:
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    return file.open('rb')


def _damage(file: BinaryIO) -> str | None:
    """What is wrong with a file of ``torch.save`` or safetensors: the end of a sentence, or None."""
    start = file.read(9)
    if start[:2] == b'\x80\x02':
        return None
    if safetensors_files.is_safetensors(start):
        return safetensors_files.damage(start + file.read())
    try:
        archive = zipfile.ZipFile(file)
    except Exception:  # zipfile has a dozen kinds for bytes that are none of an archive
        return _NO_CHECKPOINT
    with archive:
        records = archive.infolist()
        if any(record.filename.endswith('/constants.pkl') for record in records):
            return 'is a TorchScript archive, which holds a program; give the file that torch.save wrote'
        # torch reads nothing for a record that is marked as a folder, and leaves the memory as it was.
        record = next((record.filename for record in records if record.external_attr & 0x10), None)
        if record is None and any(record.CRC for record in records):  # none: set_crc32_options(False) of torch
            try:
                record = archive.testzip()
            except Exception:
                record = 'a record'
    return record and f'is damaged: {record} in it does not match its checksum; copy or fetch it again'


def _read_file(file_path: str | Path, path: str, map_location: Any) -> Any:
    with _open(file_path) as file:
        if tarfile.is_tarfile(file):
            raise ValueError(
                f'checkpoint {path} is in the tar format of PyTorch 0.1, which can only be read by running the code in '
                f'it; {_KEEP_WEIGHTS.format(name=path)}'
            )
        file.seek(0)
        damage = _damage(file)
        if damage:
            raise ValueError(f'checkpoint {path} {damage}')
        file.seek(0)
        if safetensors_files.is_safetensors(file.read(9)):
            file.seek(0)
            content = file.read()
            return _load_safely(path, lambda: safetensors_files.from_bytes(content, map_location))
        file.seek(0)
        return _load_safely(path, lambda: torch.load(file, map_location=map_location, weights_only=True))


def _load_safely(path: str, load: Any) -> Any:
    """Call ``load`` while every torch.load of the process takes weights only, whatever it asks for."""
    always, never = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    before = {name: os.environ.pop(name, None) for name in (always, never)}
    os.environ[always] = '1'
    try:
        with training_state_allowed():
            return load()
    except OSError:
        raise  # no such file, no network: says so itself
    except Exception as error:  # damaged pickles raise errors of every kind
        sentence = _why_unreadable(path, str(error))
    finally:
        del os.environ[always]
        os.environ.update({name: value for name, value in before.items() if value is not None})
    raise ValueError(sentence)


def _fetch(url: str) -> Path:
    """Where torch's cache has a file; rank 0 fetches it first, so that the others find it."""
    kept = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name
    ranks = distributed.is_available() and distributed.is_initialized()
    if ranks and distributed.get_rank() > 0:
        distributed.barrier()
    try:
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(kept))
    finally:
        if ranks and distributed.get_rank() == 0:
            distributed.barrier()
    return kept


def _refuse_non_finite(checkpoint: Any, path: str) -> None:
    if not isinstance(checkpoint, Mapping):
        return
    for state in (weights_of(checkpoint), checkpoint.get('ema_state_dict')):
        name = first_non_finite(state) if isinstance(state, Mapping) else None
        if name is not None:
            raise ValueError(
                f'checkpoint {path} holds weights that are not finite, {name} first: its training has diverged; use an '
                'earlier checkpoint, or train again with a lower learning rate'
            )


def _is_mask(name: str, value: torch.Tensor) -> bool:
    """Whether -inf means "not here" in a tensor, as in attention masks: by its name, or 0 and -inf being all it has."""
    if value.isnan().any() or name.endswith(('weight', 'bias', 'running_mean', 'running_var')):
        return False
    hidden = value.isneginf() if value.is_floating_point() else torch.zeros_like(value, dtype=torch.bool)
    return name.endswith('mask') or bool(hidden.any() and (value == 0).any() and (hidden | (value == 0)).all())


def _why_unreadable(path: str, message: str) -> str:
    unlisted = re.search(r'GLOBAL ([\w.]+)', message)
    if unlisted:
        return (
            f'checkpoint {path} asks for {unlisted[1]}, which is no tensor, number, text, argparse.Namespace or NumPy '
            f'array, so it was not loaded: unpickling it could run code; {_KEEP_WEIGHTS.format(name=path)}'
        )
    return f'checkpoint {path} cannot be read ({" ".join(message.split())[:200]}); fetch it again'
