"""Time and memory of the selective scan backends, as ratios to ``naive`` measured in the same run.

Usage: python tools/benchmarks/bench_selective_scan.py [--batch 4 --dim 192 --d-state 16 --lengths 64 256 1024 4096]

Each figure is the median of repeated, synchronised runs after a warm-up. Memory is the peak that one forward+backward
adds on top of its inputs, on the GPU as the allocator counts it and on the CPU as the process grows (resident peak of
a fresh process; Linux only).
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from mmssmprune.ops import available_backends, selective_scan


def operands(batch: int, dim: int, d_state: int, length: int, device: str) -> dict[str, Tensor]:
    """Random float32 operands that require gradients."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    decay = -torch.rand(dim, d_state, generator=generator).add(0.1).to(device)
    sequences = {name: draw(batch, dim, length) for name in ('u', 'delta', 'z')}
    states = {name: draw(batch, d_state, length) for name in ('B', 'C')}
    vectors = {name: draw(dim) for name in ('D', 'delta_bias')}
    return {**sequences, **states, **vectors, 'A': decay.requires_grad_()}


def run(tensors: dict[str, Tensor], backend: str, backward: bool) -> None:
    """One forward, or one forward and backward."""
    with torch.set_grad_enabled(backward):
        out = selective_scan(**tensors, delta_softplus=True, backend=backend)
    if backward:
        torch.autograd.grad(out.sum(), list(tensors.values()))


def median_seconds(step: Callable[[], None], budget: float) -> float:
    """Median of at least 3 runs after one warm-up, more as long as ``budget`` seconds allow."""
    seconds: list[float] = []
    step()
    while len(seconds) < 3 or (sum(seconds) < budget and len(seconds) < 50):
        _synchronise()
        start = time.perf_counter()
        step()
        _synchronise()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib(shape: tuple[int, int, int, int], backend: str, device: str) -> float:
    """Peak memory in MiB that one forward+backward adds, in a fresh process on the CPU."""
    if not Path('/proc/self/clear_refs').exists() and device == 'cpu':
        return float('nan')
    if device == 'cuda':
        tensors = operands(*shape, device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(tensors, backend, backward=True)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    command = [sys.executable, __file__, '--peak-of', backend, *map(str, shape)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(backend: str, shape: list[int]) -> None:
    """Body of the fresh process: run a short sequence first, so that libraries are loaded before counting."""
    run(operands(1, 4, 4, 8, 'cpu'), backend, backward=True)
    tensors = operands(*shape, 'cpu')
    Path('/proc/self/clear_refs').write_text('5')  # Linux: forget the peak so far
    before = resident_peak_mib()
    run(tensors, backend, backward=True)
    print(resident_peak_mib() - before)


def resident_peak_mib() -> float:
    """Peak resident memory of this process, as Linux counts it."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) / 1024


def measure(args: argparse.Namespace, device: str) -> Table:
    """Measure every backend at every length."""
    shape = f'B {args.batch}, D {args.dim}, N {args.d_state}'
    table = Table(title=f'selective scan, {shape}, float32, {device}, {torch.get_num_threads()} threads')
    columns = ('L', 'backend', 'fwd ms', 'x naive', 'fwd+bwd ms', 'x naive', 'peak MiB')
    for column in columns:
        table.add_column(column, justify='right')
    for length in track(args.lengths, description='lengths', console=Console(stderr=True)):
        naive: list[float] = []
        for backend in available_backends(device):
            tensors = operands(args.batch, args.dim, args.d_state, length, device)
            times = [
                median_seconds(lambda b=backward, t=tensors, n=backend: run(t, n, b), args.budget)
                for backward in (False, True)
            ]
            naive = naive or times
            peak = peak_mib((args.batch, args.dim, args.d_state, length), backend, device)
            cells = [f(t, n) for t, n in zip(times, naive, strict=True) for f in (_milliseconds, _ratio)]
            table.add_row(str(length), backend, *cells, f'{peak:.0f}')
    return table


def _milliseconds(seconds: float, _: float) -> str:
    return f'{seconds * 1e3:.1f}'


def _ratio(seconds: float, naive: float) -> str:
    return f'{naive / seconds:.1f}'


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--dim', type=int, default=192)
    parser.add_argument('--d-state', type=int, default=16)
    parser.add_argument('--lengths', type=int, nargs='+', default=[64, 256, 1024, 4096])
    parser.add_argument('--budget', type=float, default=2.0, help='seconds per figure (at least 3 runs are made)')
    parser.add_argument('--threads', type=int, help='CPU threads; default as torch chooses')
    parser.add_argument('--peak-of', nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        print_peak(args.peak_of[0], [int(n) for n in args.peak_of[1:]])
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    Console().print(measure(args, 'cuda' if torch.cuda.is_available() else 'cpu'))


if __name__ == '__main__':
    main()
