"""Time and memory of the scan by every backend, and of the convolution over kept tokens.

    python tools/benchmarks/benchmark_scan.py --out scan.md --json scan.json
    python tools/benchmarks/benchmark_scan.py --shapes plain-mamba-l1:800x1344:2 --backends torch triton --kept 1 0.5

What is timed is the operator alone: the multi-directional scan of a mixer, or its depthwise convolution. On a CPU
memory is how far a fresh process grows; that of the convolution is left out there. docs/benchmarks.md says how to read
the tables.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any

import torch

from mmssmprune._command_line import keep_ratio
from mmssmprune.analysis.speed import conv_cases, scan_cases
from mmssmprune.analysis.speed.cases import SCANS
from mmssmprune.analysis.speed.command_line import DTYPES, make_parser, refusing, settle
from mmssmprune.analysis.speed.memory import peak_of
from mmssmprune.analysis.speed.report import BenchmarkReport, BenchmarkTable
from mmssmprune.analysis.speed.scan_cases import FAMILIES, OFFICIAL, STAGES, ScanCase, forward, forward_backward
from mmssmprune.analysis.speed.timing import time_in_turns
from mmssmprune.ops import available_backends
from mmssmprune.ops.scan import SCAN_BACKENDS

METHOD = (
    'Medians of synchronised runs after a warm-up, the contestants of a shape in turns. "x" is how many times as fast '
    'as the reference of the shape. Peak memory is what forward and backward hold beyond operands and results before.'
)
CONTESTANTS = {'scan': scan_cases.contestants, 'conv': conv_cases.contestants}


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        '--shapes',
        nargs='+',
        metavar='FAMILY:HxW:BATCH',
        help=f'of images in pixels; families: {", ".join([*FAMILIES, *STAGES])} (the last ones: all their stages)',
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
        type=keep_ratio,
        default=[1.0, 0.5],
        metavar='RATIO',
        help='shares of the tokens (default: 1 0.5)',
    )
    parser.add_argument('--no-conv', action='store_true', help='leave the convolution out')
    return parser, settle(parser)


def main() -> None:
    """Measure case by case; the files are written anew after each."""
    parser, args = parse_args()
    with refusing(parser):
        shapes = args.shapes or SCANS[args.device.type][args.quick]
        cases = [
            replace(case, kept=kept) for text in shapes for case in scan_cases.parse_cases(text) for kept in args.kept
        ]
        check_backends(args.backends, args.device)
    tables = {
        'scan': BenchmarkTable('Scan along all directions of a mixer', columns('backend')),
        'conv': BenchmarkTable('Depthwise convolution of the kept tokens', columns('how')),
    }
    report = BenchmarkReport('Selective scan and convolution', METHOD, tables, args)
    for what in ['scan'] if args.no_conv else ['scan', 'conv']:
        for case in cases:
            measure(what, case, args, tables[what])
            report.save()
    report.finish()


def check_backends(names: list[str] | None, device: torch.device) -> None:
    """Refuse names that mean nothing or do not run here."""
    usable = available_backends(device)
    usable += [OFFICIAL] if scan_cases.official_kernel(device) else []
    for name in names or []:
        if name not in usable:
            raise ValueError(f'--backends: {name!r} does not run on {device} here; choose from {", ".join(usable)}')


def measure(what: str, case: ScanCase, args: argparse.Namespace, table: BenchmarkTable) -> None:
    """Time all contestants of a case, forward and with backward, and append their rows."""
    calls = CONTESTANTS[what](case, args.device, DTYPES[args.dtype], args.backends)
    shown = f'{case.family}, {case.image[0]}x{case.image[1]}, batch {case.batch}'
    about = {**asdict(case), 'tokens': case.tokens, 'shape': shown}
    rows: dict[str, dict[str, Any]] = {name: {**about, 'contestant': name} for name in calls}
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
        if 'failure' in row:
            table.notes.append(f'{shown}, {case.tokens} tokens, {name}: {row["failure"]}')
        elif args.device.type == 'cuda' or what == 'scan':  # of a convolution a few MiB, for seconds per process
            weighed = {**asdict(case), 'contestant': name, 'dtype': args.dtype}
            row['peak_mib'] = peak_of(forward_backward(calls[name]), args, scan_cases.calls_to_weigh, weighed)
        table.rows.append(row)


def columns(contestant: str) -> dict[str, str | tuple[str, int]]:
    """The columns of both tables."""
    return {
        'shape': 'shape', 'kept': ('kept', 2), 'tokens': ('tokens', 0), 'contestant': contestant,
        'forward_ms': ('forward (ms)', 3), 'forward_speedup': ('x', 2),
        'forward_backward_ms': ('forward + backward (ms)', 3), 'forward_backward_speedup': ('x', 2),
        'reference': 'reference', 'peak_mib': ('peak (MiB)', 1),
    }  # fmt: skip


if __name__ == '__main__':
    main()
