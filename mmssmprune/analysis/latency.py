"""Wall-clock time of forward passes, measured so that rows of one table can be compared."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mmssmprune.ops.scan import SCAN_BACKENDS

_RUNS_PER_TURN = 2


def measure_latency(
    calls: Mapping[str, Callable[[], Any]],
    device: torch.device | str,
    runs: int = 20,
    warmup: int = 3,
    before_turn: Callable[[str], None] | None = None,
    after_turn: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Time several forward passes in turns, so that a slow minute of the machine hits all of them alike.

    Args:
        calls: what to time, by name.
        device: where they run; it is synchronised before and after each run.
        runs: timed runs of each.
        warmup: untimed runs of each before its first timed one. Later turns start with one untimed run, which refills
            the caches that the others have used.
        before_turn: called with a name before its runs, untimed, to set its model up.
        after_turn: called with a name after its runs, for a progress display.

    Returns:
        For each name ``median_ms``, and ``runs_ms``, the single times in milliseconds.
    """
    if runs < 1:
        raise ValueError(f'latency needs at least 1 timed run, got {runs}')
    before_turn, after_turn = before_turn or _nothing, after_turn or _nothing
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad(), _tuned_convolutions(device):
        for start in range(0, runs, _RUNS_PER_TURN):
            for name, call in calls.items():
                before_turn(name)
                for _ in range(1 if start else warmup):
                    call()
                for _ in range(start, min(start + _RUNS_PER_TURN, runs)):
                    times[name].append(_time_once(call, device))
                after_turn(name)
    return {name: {'median_ms': median(values), 'runs_ms': values} for name, values in times.items()}


def turns(runs: int) -> int:
    """In how many turns the runs of one name are made."""
    return -(-runs // _RUNS_PER_TURN)


def _tuned_convolutions(device: torch.device | str) -> AbstractContextManager:
    """On CUDA let cuDNN choose its fastest kernels during warm-up, whatever ran before in this process."""
    if torch.device(device).type != 'cuda':
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=True, deterministic=False, allow_tf32=torch.backends.cudnn.allow_tf32
    )


def _nothing(name: str) -> None:
    pass


def _time_once(call: Callable[[], Any], device: torch.device | str) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return (time.perf_counter() - start) * 1000


def synchronize(device: torch.device | str) -> None:
    """Wait for what the device still computes."""
    # CPU work is synchronous; every accelerator has its own module with the same function.
    backend = getattr(torch, torch.device(device).type, None)
    if torch.device(device).type != 'cpu' and hasattr(backend, 'synchronize'):
        backend.synchronize()


def describe_device(device: torch.device | str) -> dict[str, Any]:
    """Name of the device and the settings that change its speed: equal descriptions, comparable latencies."""
    device = torch.device(device)
    dtype = torch.get_default_dtype()
    common = {'dtype': str(dtype).removeprefix('torch.'), 'scan': SCAN_BACKENDS.choose(None, device, dtype)}
    if device.type == 'cuda':
        return {
            'name': torch.cuda.get_device_name(device),
            'tf32_matmul': torch.backends.cuda.matmul.allow_tf32,
            'tf32_conv': torch.backends.cudnn.allow_tf32,
            'cudnn_benchmark': True,  # as `measure_latency` sets it
            **common,
        }
    if device.type == 'cpu':
        return {'name': _cpu_name(), 'threads': torch.get_num_threads(), **common}
    return {'name': device.type, **common}


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine() or 'CPU'
