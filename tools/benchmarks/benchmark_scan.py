"""Time and memory of the scan by every backend, and of the convolution over kept tokens.

    python tools/benchmarks/benchmark_scan.py --out scan.md --json scan.json
    python tools/benchmarks/benchmark_scan.py --shapes plain-mamba-l1:800x1344:2 --backends torch triton --kept 1 0.5

What is timed is the operator alone: the multi-directional scan of a mixer, or its depthwise convolution. On a CPU
memory is how far a fresh process grows; that of the convolution is left out there. docs/benchmarks.md says how to read
the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mmssmprune.analysis.speed import conv_cases, scan_cases
from mmssmprune.analysis.speed.command_line import DTYPES, make_parser, ratio, refusing, settle
from mmssmprune.analysis.speed.machine import describe_machine
from mmssmprune.analysis.speed.memory import peak_in_fresh_process, peak_mib
from mmssmprune.analysis.speed.report import Column, Report, Table, shown_command
from mmssmprune.analysis.speed.scan_cases import FAMILIES, Contestant, ScanCase, forward, forward_backward, parse_case
from mmssmprune.analysis.speed.timing import time_in_turns
from mmssmprune.ops import available_backends
from mmssmprune.ops.kept_conv import CONV_BACKENDS
from mmssmprune.ops.scan import SCAN_BACKENDS

OFFICIAL = 'official'
SHAPES = {
    'cpu': (
        'plain-mamba-l1:224x224:2',
        'plain-mamba-l1:512x512:1',
        'plain-mamba-l1:800x1344:1',
        'vim-t:224x224:2',
        'vim-s:512x512:1',
    ),
    'cuda': (
        'plain-mamba-l1:800x1344:2',
        'plain-mamba-l1:224x224:64',
        'plain-mamba-l1:512x512:16',
        'plain-mamba-l1:512x2048:2',
        'vim-t:224x224:64',
        'vim-t:800x1344:2',
        'vim-s:224x224:64',
        'vim-s:512x512:16',
    ),
}
QUICK = {'cpu': SHAPES['cpu'][:2], 'cuda': SHAPES['cuda'][:2]}
# Beyond so many states the naive loop takes seconds per call on a CPU; beyond so many steps it does on a GPU.
NAIVE_STATES, NAIVE_STEPS = 30_000_000, 400
METHOD = (
    'Medians of synchronised runs after a warm-up, the contestants of a shape in turns. "x" is how many times as fast '
    'as the reference of the shape. Peak memory is what forward and backward hold beyond operands and results before.'
)
Contestants = dict[str, Contestant]


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        '--shapes', nargs='+', metavar='FAMILY:HxW:BATCH', help=f'of images in pixels; families: {", ".join(FAMILIES)}'
    )
    parser.add_argument(
        '--backends',
        nargs='+',
        metavar='NAME',
        help=f'{", ".join(SCAN_BACKENDS.modules)}, {OFFICIAL} (default: all that run here)',
    )
    parser.add_argument(
        '--kept',
        nargs='+',
        type=ratio,
        default=[1.0, 0.5],
        metavar='RATIO',
        help='shares of the tokens (default: 1 0.5)',
    )
    parser.add_argument('--no-conv', action='store_true', help='leave the convolution out')
    parser.add_argument('--no-memory', action='store_true', help='leave peak memory out')
    parser.add_argument('--peak-of', metavar='CASE', help=argparse.SUPPRESS)
    return parser, settle(parser, parser.parse_args())


def main() -> None:
    """Measure case by case; the files are written anew after each."""
    parser, args = parse_args()
    if args.peak_of:
        print_peak(json.loads(args.peak_of), args.device)
        return
    with refusing(parser):
        defaults = (QUICK if args.quick else SHAPES)[args.device.type]
        cases = [replace(parse_case(text), kept=kept) for text in args.shapes or defaults for kept in args.kept]
        check_backends(args.backends, args.device)
    report = Report(
        'Selective scan and convolution', shown_command(__file__),
        describe_machine(args.device, args.dtype), METHOD, {'scan': scan_table(), 'conv': conv_table()},
    )  # fmt: skip
    for what, make in (('scan', scan_contestants), ('conv', conv_contestants)):
        if what == 'conv' and args.no_conv:
            continue
        for case in cases:
            measure(what, case, make, args, report.tables[what])
            report.save(args.out, args.json)
    report.finish(args.out, args.json)


def check_backends(names: list[str] | None, device: torch.device) -> None:
    """Refuse names that mean nothing or do not run here."""
    usable = available_backends(device)
    usable += [OFFICIAL] if device.type == 'cuda' and scan_cases.official_kernel() else []
    for name in names or []:
        if name not in usable:
            raise ValueError(f'--backends: {name!r} does not run on {device} here; choose from {", ".join(usable)}')


def scan_contestants(case: ScanCase, device: torch.device, dtype: torch.dtype, names: list[str] | None) -> Contestants:
    """Every backend by name, and the official way around mamba-ssm's kernel, which only knows dense scans."""
    leaves, options = scan_cases.make_operands(case, device, dtype)
    wanted = names or [*available_backends(device), OFFICIAL]
    calls = {
        name: scan_cases.ours(leaves, options, name)
        for name in available_backends(device)
        if name in wanted and (name != 'naive' or is_for_naive(case, device))
    }
    kernel = scan_cases.official_kernel() if device.type == 'cuda' else None
    if OFFICIAL in wanted and kernel and case.kept == 1:
        calls[OFFICIAL] = scan_cases.official(case, leaves, kernel)
    return calls


def is_for_naive(case: ScanCase, device: torch.device) -> bool:
    """Whether the naive loop takes less than minutes for a case."""
    return case.states <= NAIVE_STATES if device.type == 'cpu' else case.tokens <= NAIVE_STEPS


def conv_contestants(case: ScanCase, device: torch.device, dtype: torch.dtype, names: list[str] | None) -> Contestants:
    """A dense layer's convolution, the way over the grid, and every backend of our operator but the naive one."""
    leaves, options = conv_cases.make_operands(case, device, dtype)
    calls = {conv_cases.DENSE: conv_cases.over_all_cells(leaves, options)}
    calls[conv_cases.GRID] = conv_cases.over_grid(leaves, options)
    for name in CONV_BACKENDS.available(device):
        if name != 'naive' and (not names or name in names):
            calls[name] = conv_cases.ours(leaves, options, name)
    return calls


def measure(
    what: str, case: ScanCase, make: Callable[..., Contestants], args: argparse.Namespace, table: Table
) -> None:
    """Time all contestants of a case, forward and with backward, and append their rows."""
    calls = make(case, args.device, DTYPES[args.dtype], args.backends)
    rows: dict[str, dict[str, Any]] = {name: {**as_row(case), 'contestant': name} for name in calls}
    for key, step in (('forward', forward), ('forward_backward', forward_backward)):
        steps = {name: step(call) for name, call in calls.items()}
        times, failures = time_in_turns(steps, args.device, args.runs, args.warmup)
        reference = next(iter(times), None)
        for name, row in rows.items():
            if name in times:
                row |= {f'{key}_ms': times[name].median, f'{key}_speedup': times[reference].over(times[name])}
                row.setdefault('reference', reference)
            else:
                row['failure'] = failures[name]
    if what == 'scan' and 'naive' not in calls and (not args.backends or 'naive' in args.backends):
        table.notes.append('`naive` is left out where it would take minutes; the reference then is the first row.')
    for name, row in rows.items():
        if not args.no_memory and 'failure' not in row:
            row['peak_mib'] = peak(what, row, calls[name], args)
        table.notes += [f'{label(row)}, {name}: {row["failure"]}'] if 'failure' in row else []
        table.rows.append(row)


def peak(what: str, row: dict[str, Any], contestant: Contestant, args: argparse.Namespace) -> float | None:
    """Peak MiB of forward and backward."""
    if args.device.type == 'cuda':
        return peak_mib(forward_backward(contestant), args.device)
    if what == 'conv':
        return None  # a few MiB, for seconds per process
    names = ('family', 'image', 'batch', 'kept', 'contestant')
    case = {'what': what, 'dtype': args.dtype, **{name: row[name] for name in names}}
    return peak_in_fresh_process(Path(__file__).resolve(), case, torch.get_num_threads())


def print_peak(asked: dict[str, Any], device: torch.device) -> None:
    """Body of the fresh process; a small case first, so that libraries are loaded and compiled before counting."""
    what, name, dtype = asked.pop('what'), asked.pop('contestant'), DTYPES[asked.pop('dtype')]
    make = scan_contestants if what == 'scan' else conv_contestants
    case = ScanCase(**{**asked, 'image': tuple(asked['image'])})
    for measured in (replace(case, image=(32, 48), batch=1), case):
        found = peak_mib(forward_backward(make(measured, device, dtype, [name])[name]), device)
    print(found)


def as_row(case: ScanCase) -> dict[str, Any]:
    """What a row says about its case."""
    shown = f'{case.family}, {case.image[0]}x{case.image[1]}, batch {case.batch}'
    return {**asdict(case), 'tokens': case.tokens, 'shape': shown}


def label(row: dict[str, Any]) -> str:
    """A row's case in words."""
    return f'{row["shape"]}, {row["tokens"]} tokens'


def scan_table() -> Table:
    """An empty table of scans."""
    return Table('Scan along all directions of a mixer', columns('backend', 'reference'))


def conv_table() -> Table:
    """An empty table of convolutions."""
    return Table('Depthwise convolution of the kept tokens', columns('how', 'reference'))


def columns(contestant: str, reference: str) -> list[Column]:
    """The columns of both tables."""
    return [
        Column('shape', 'shape'), Column('kept', 'kept', 2), Column('tokens', 'tokens', 0),
        Column('contestant', contestant), Column('forward_ms', 'forward (ms)', 3), Column('forward_speedup', 'x', 2),
        Column('forward_backward_ms', 'forward + backward (ms)', 3), Column('forward_backward_speedup', 'x', 2),
        Column('reference', reference), Column('peak_mib', 'peak (MiB)', 1),
    ]  # fmt: skip


if __name__ == '__main__':
    main()
