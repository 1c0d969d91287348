"""Images per second and peak memory of whole detectors and segmentors, dense against pruned.

    python tools/benchmarks/benchmark_e2e.py configs/<dense>.py configs/<pruned>.py --batch 2 --shape 512 512

The first config is what the others are compared to. Without any, a UperNet and a Mask R-CNN are measured. The weights
are random and the images are noise. docs/benchmarks.md says how to read the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from mmssmprune._command_line import add_shape, positive
from mmssmprune.analysis.speed.cases import WHOLE_MODELS
from mmssmprune.analysis.speed.command_line import make_parser, settle
from mmssmprune.analysis.speed.memory import peak_of
from mmssmprune.analysis.speed.report import BenchmarkReport, BenchmarkTable
from mmssmprune.analysis.speed.timing import time_rows

MODES = ('inference', 'training')
METHOD = (
    'Medians of synchronised runs after a warm-up, the models in turns, from the preprocessed batch on the device. '
    'Random weights and images of noise: the time depends on neither, but for what detectors find. In inference they '
    'get as many proposals as the config allows; random class scores pass no threshold, so mask heads have nothing to '
    'do there. In training the number of regions is what the config samples, of 8 objects per image and the proposals. '
    'A training step is losses, gradients and a step of AdamW. "x" is how many times as fast as the first model.'
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files, the dense one first')
    parser.add_argument('--batch', type=positive, default=2, help='images per step (default: %(default)s)')
    add_shape(parser, '512 512')
    parser.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES), help='default: both')
    args = settle(parser, cpu_runs=2)
    args.shape = tuple(args.shape or ((128, 128) if args.quick else (512, 512)))
    return args


def main() -> None:
    """Measure group by group; the files are written anew after each mode."""
    args = parse_args()
    from mmssmprune.engine.errors import sentence_errors

    columns = {
        'config': 'config', 'input': 'input', 'batch': ('batch', 0), 'milliseconds': ('time (ms)', 1),
        'images_per_second': ('images/s', 2), 'speedup': ('x', 2), 'peak_mib': ('peak (MiB)', 1),
    }  # fmt: skip
    tables = {mode: BenchmarkTable(mode.capitalize(), columns) for mode in MODES}
    report = BenchmarkReport('Whole models, dense against pruned', METHOD, tables, args)
    for group in [args.configs] if args.configs else WHOLE_MODELS[args.quick]:
        with sentence_errors(building=True):
            from mmssmprune.analysis.speed.whole_models import make_model

            models = {config: make_model(config, args.device) for config in group}
        for mode in args.modes:
            measure(models, mode, args, tables[mode])
            report.save()
    report.finish()


def measure(models: Mapping[str, nn.Module], mode: str, args: argparse.Namespace, table: BenchmarkTable) -> None:
    """Time all models of a group in one mode and append their rows."""
    from mmssmprune.analysis.speed.whole_models import calls_to_weigh, make_call

    calls = {config: make_call(model, mode, args.shape, args.batch, args.dtype) for config, model in models.items()}
    shown = {'input': f'{args.shape[0]}x{args.shape[1]}', 'batch': args.batch, 'mode': mode}
    rows = {config: {'config': Path(config).stem, **shown} for config in models}
    times = time_rows(rows, calls, args)
    first = times.get(next(iter(models)))
    for config, row in rows.items():
        if config in times:
            row['images_per_second'] = 1000 * args.batch / times[config].median
            row['speedup'] = first.over(times[config]) if first else None
            # Beyond the weights, and in training on a GPU beyond AdamW's state.
            case = {'config': config, 'mode': mode, 'shape': args.shape, 'batch': args.batch, 'dtype': args.dtype}
            row['peak_mib'] = peak_of(calls[config], args, calls_to_weigh, case)
        else:
            table.notes.append(f'{row["config"]}: {row["failure"]}')
        table.rows.append(row)


if __name__ == '__main__':
    main()
