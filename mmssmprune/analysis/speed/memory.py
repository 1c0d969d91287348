"""Peak memory of a call: what the allocator hands out on a GPU, the growth of a fresh process on a CPU (Linux)."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from .timing import synchronize

MIB = 2**20
_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def peak_mib(call: Callable[[], Any], device: torch.device) -> float:
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


def peak_of(
    call: Callable[[], Any], case: dict[str, Any], args: argparse.Namespace, script: str, **variables: str
) -> float | None:
    """Peak MiB of a call; on a CPU ``script --peak-of`` makes it anew from ``case`` in a fresh process.

    None where memory is left out, the fresh process has failed or the system does not tell.
    """
    if args.no_memory:
        return None
    if args.device.type == 'cuda':
        return peak_mib(call, args.device)
    return peak_in_fresh_process(script, {**case, 'dtype': args.dtype}, torch.get_num_threads(), **variables)


def print_last_peak(calls: Iterable[Callable[[], Any]], device: torch.device) -> None:
    """Body of the fresh process; small calls come first, so that libraries are loaded and compiled before counting."""
    for call in calls:
        found = peak_mib(call, device)
    print(found)


def peak_in_fresh_process(script: str | Path, case: dict[str, Any], threads: int, **variables: str) -> float | None:
    """Let ``script --peak-of CASE`` print its peak in MiB.

    Memory that a process has freed is used again without its size growing, so each figure needs a process of its own,
    with ``variables`` in its environment.

    Returns:
        None where the process has failed, for want of memory as a rule, or where the system does not tell.
    """
    if not _CLEAR.exists():
        return None
    command = [sys.executable, str(script), '--peak-of', json.dumps(case), '--threads', str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    lines = done.stdout.split()
    return float(lines[-1]) if done.returncode == 0 and lines else None


def _resident_peak_mib() -> float:
    return int(re.search(r'VmHWM:\s+(\d+) kB', _STATUS.read_text())[1]) / 1024
