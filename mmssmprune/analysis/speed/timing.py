"""Times of contestants in one run: in turns, synchronised, medians; calls too short to time are timed in bunches."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from mmssmprune.analysis.latency import measure_latency, synchronize

Call = Callable[[], Any]
# On a GPU one timed run lasts at least so long, so that kernels count rather than the gap around a synchronisation.
SHORTEST_RUN_MS = 10.0
MOST_CALLS_PER_RUN = 100
OUT_OF_MEMORY = 'out of memory'


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the ``runs`` of one call."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """Their median."""
        return median(self.runs)

    def over(self, other: Timing) -> float:
        """Median of the ratios run by run: what was timed one after the other is as slow as the machine was then."""
        return median(mine / theirs for mine, theirs in zip(self.runs, other.runs, strict=True))


def time_in_turns(
    calls: Mapping[str, Call], device: torch.device, runs: int, warmup: int
) -> tuple[dict[str, Timing], dict[str, str]]:
    """The times of each call, and what kept the others from running.

    Args:
        calls: what to time, by name; each enables gradients itself if it needs them.
        device: where they run.
        runs: timed runs of each.
        warmup: untimed runs of each before them, beside the one that shows that it runs at all.
    """
    bunches, failures = {}, {}
    for name, call in calls.items():
        problem = first_run(call, device)
        if problem:
            failures[name] = problem
        else:
            bunches[name] = _calls_per_run(call, device)
    timed = {name: _repeated(calls[name], times) for name, times in bunches.items()}
    found = measure_latency(timed, device, runs, warmup)
    times = {name: Timing(tuple(ms / bunches[name] for ms in found[name]['runs_ms'])) for name in timed}
    return times, failures


def time_rows(
    rows: Mapping[str, dict[str, Any]], calls: Mapping[str, Call], args: argparse.Namespace
) -> dict[str, Timing]:
    """`time_in_turns`, with ``milliseconds`` and ``failure`` written into a row for each call."""
    times, failures = time_in_turns(calls, args.device, args.runs, args.warmup)
    for name, row in rows.items():
        row |= {'milliseconds': times[name].median if name in times else None, 'failure': failures.get(name)}
    return times


def first_run(call: Call, device: torch.device) -> str | None:
    """Call once; returns what went wrong, in a line: a benchmark goes on without the contestant that fails."""
    try:
        call()
        synchronize(device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return OUT_OF_MEMORY
    except Exception as error:
        return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
    return None


def _calls_per_run(call: Call, device: torch.device) -> int:
    if device.type == 'cpu':
        return 1
    start = time.perf_counter()
    call()
    synchronize(device)
    milliseconds = (time.perf_counter() - start) * 1000
    return min(MOST_CALLS_PER_RUN, max(1, math.ceil(SHORTEST_RUN_MS / milliseconds)))


def _repeated(call: Call, times: int) -> Call:
    def repeat() -> None:
        for _ in range(times):
            call()

    return call if times == 1 else repeat


def captured(call: Call) -> Call:
    """The call as a CUDA graph, captured at the first call: replaying starts all kernels without Python in between.

    The first call raises RuntimeError where the call synchronises with the host.
    """
    graphs: list[torch.cuda.CUDAGraph] = []

    def replay() -> None:
        if not graphs:
            graphs.append(_capture(call))
        graphs[0].replay()

    return replay


def _capture(call: Call) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph
