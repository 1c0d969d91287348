"""Peak memory of a call: what the allocator hands out on a GPU, the growth of a fresh process on a CPU (Linux)."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmssmprune.analysis.latency import synchronize

MIB = 2**20
Call = Callable[[], Any]
_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def peak_of(
    call: Call,
    args: argparse.Namespace,
    make_calls: Callable[..., Iterable[Call]],
    case: dict[str, Any],
    **variables: str,
) -> float | None:
    """Peak MiB of a call, which on a CPU a fresh process makes anew; None where memory is left out."""
    if args.no_memory:
        return None
    if args.device.type == 'cuda':
        return peak_mib(call, args.device)
    return peak_in_fresh_process(make_calls, case, **variables)


def peak_mib(call: Call, device: torch.device) -> float:
    """MiB that one call holds at its peak on top of what was there before it."""
    if device.type == 'cuda':
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    _CLEAR.write_text('5')  # Linux: forget the peak so far
    before = _resident_peak_mib()
    call()
    return _resident_peak_mib() - before


def peak_in_fresh_process(
    make_calls: Callable[..., Iterable[Call]], case: dict[str, Any], **variables: str
) -> float | None:
    """Peak MiB of the last of ``make_calls(**case)`` on a CPU.

    Memory that a process has freed is used again without its size growing, so each figure needs a process of its own,
    with ``variables`` in its environment. Small calls come first, so that libraries are loaded and compiled before
    anything counts.

    Returns:
        None where the process has failed, for want of memory as a rule, or where the system does not tell.
    """
    if not _CLEAR.exists():
        return None
    spawn = multiprocessing.get_context('spawn')
    with (
        environment(**variables),
        ProcessPoolExecutor(1, spawn, torch.set_num_threads, (torch.get_num_threads(),)) as pool,
    ):
        try:
            return pool.submit(_last_peak, make_calls, case).result()
        except (BrokenProcessPool, MemoryError, RuntimeError):
            return None


def _last_peak(make_calls: Callable[..., Iterable[Call]], case: dict[str, Any]) -> float:
    return [peak_mib(call, torch.device('cpu')) for call in make_calls(**case)][-1]


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Have variables in the environment within the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _resident_peak_mib() -> float:
    return int(re.search(r'VmHWM:\s+(\d+) kB', _STATUS.read_text())[1]) / 1024
