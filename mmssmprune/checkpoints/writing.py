"""Files that appear whole or not at all, and a work_dir that one training has to itself."""

from __future__ import annotations

import glob
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from .safetensors_files import SUFFIX, to_bytes

try:
    import fcntl
except ImportError:  # Windows: names of one's own are all there is
    fcntl = None

LOCK_NAME = '.training.lock'
_PATIENCE = (0.2, 0.2, 0)  # seconds: another process may be looking at the lock just now

# Data workers are forks. They close their copies, or a lock would outlive the training that was killed.
_held: set[int] = set()


@contextmanager
def written_whole(path: str | Path, suffix: str = '.part') -> Iterator[str]:
    """A file beside ``path``, of a name that no other writer has; it becomes ``path`` when the block ends well.

    Otherwise, or if nothing was written to it, it is removed. What a killed process left of ``path`` is removed first.

    Args:
        path: where the content goes; its folder is made.
        suffix: how the name of the part ends, for writers that choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(path.parent, f'{glob.escape(path.name)}.*{suffix}')
    part, descriptor = _new_part(path, suffix)
    try:
        yield str(part)
        if part.stat().st_size:
            os.fsync(descriptor)
            part.replace(path)
    finally:
        _release(descriptor)
        part.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file, which has some content, whole or not at all.

    Raises:
        OSError: it cannot be written; the message says which.
    """
    try:
        with written_whole(path) as part:
            Path(part).write_bytes(content.encode('utf-8') if isinstance(content, str) else content)
    except OSError as error:
        raise OSError(f'{path} cannot be written: {error.strerror or error}') from error


def save_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> None:
    """``torch.save`` under a temporary name, then rename: an interruption leaves nothing half written.

    A path that ends in ``.safetensors`` gets the weights and ``meta`` in that format.
    """
    if Path(path).suffix == SUFFIX:
        write_whole(path, to_bytes(checkpoint))
        return
    with written_whole(path) as part:
        torch.save(checkpoint, part)


def check_destination(source: str | Path, destination: str | Path, *, force: bool, doing: str = 'convert') -> None:
    """Refuse to write over a file, unless ``force``, and over the source in any case.

    Raises:
        ValueError: Says which.
    """
    source, destination = Path(source), Path(destination)
    if destination.is_dir():
        raise ValueError(f'{destination} is a folder; give the name of the file to write')
    if destination.exists() and source.exists() and destination.samefile(source):
        raise ValueError(f'{destination} is the file to {doing}; give another name for the result')
    if destination.exists() and not force:
        raise ValueError(f'{destination} exists; give another name, or --force to replace it')


def remove_stale_parts(folder: str | Path, pattern: str = '*.part') -> None:
    """Remove what killed processes left half written; a part that is being written is locked, and stays."""
    for part in Path(folder).glob(pattern):
        with suppress(OSError), part.open('rb') as file:  # no locks on this file system: nobody knows, so it stays
            _lock(file.fileno())
            part.unlink()


@contextmanager
def sole_training(work_dir: str | Path) -> Iterator[None]:
    """Hold a work_dir for a training, as long as the process lives at most: ``kill -9`` leaves no lock behind.

    Testing and comparing in the same folder ask for nothing. On file systems without locks, nothing is held.

    Raises:
        ValueError: another training holds it.
    """
    descriptor = os.open(Path(work_dir) / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(descriptor)
    try:
        if not _hold(descriptor):
            holder = os.read(descriptor, 200).decode(errors='replace').strip() or 'a process'
            raise ValueError(
                f'work_dir {work_dir} is in use by another training ({holder}): wait for its end, or choose another '
                'folder with --work-dir'
            )
        os.truncate(descriptor, 0)
        os.write(descriptor, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
        remove_stale_parts(work_dir)
        yield
    finally:
        _release(descriptor)


def in_training(work_dir: str | Path) -> bool:
    """Whether a training holds the work_dir just now."""
    try:
        with (Path(work_dir) / LOCK_NAME).open('rb') as file:
            _lock(file.fileno())
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _new_part(path: Path, suffix: str) -> tuple[Path, int]:
    """An empty file of a new name beside ``path``, and the descriptor that holds its lock."""
    while True:
        part = path.with_name(f'{path.name}.{secrets.token_hex(4)}{suffix}')
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _held.add(descriptor)
        # Not ours, or gone: taken for a stale one in the moment before the lock.
        if _hold(descriptor, patience=(0,)) and part.exists():
            return part, descriptor
        _release(descriptor)


def _hold(descriptor: int, patience: tuple[float, ...] = _PATIENCE) -> bool:
    """Whether the lock is ours, which it always is on file systems that know none."""
    for pause in patience:
        try:
            _lock(descriptor)
        except BlockingIOError:
            time.sleep(pause)
        except OSError:
            return True
        else:
            return True
    return False


def _release(descriptor: int) -> None:
    if descriptor in _held:  # not in a fork, which has closed it
        _held.discard(descriptor)
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is None:
        raise OSError('no file locks here')
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _close_in_fork() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_close_in_fork)
