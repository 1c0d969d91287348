"""Images per second and peak memory of whole detectors and segmentors, dense against pruned.

    python tools/benchmarks/benchmark_e2e.py configs/<dense>.py configs/<pruned>.py --batch 2 --shape 512 512

The first config is what the others are compared to. Without any, a UperNet and a Mask R-CNN are measured. The weights
are random and the images are noise. docs/benchmarks.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmssmprune.analysis.speed.command_line import DTYPES, make_parser, positive, settle
from mmssmprune.analysis.speed.machine import describe_machine
from mmssmprune.analysis.speed.memory import peak_in_fresh_process, peak_mib
from mmssmprune.analysis.speed.report import Column, Report, Row, Table, shown_command
from mmssmprune.analysis.speed.timing import time_in_turns

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'plain_mamba'
# Each dense config with its pruned one.
PAIRS = (
    ('plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512', 'plain-mamba-l1-flops30_upernet_8xb2-160k_ade20k-512x512'),
    ('plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco', 'plain-mamba-adapter-l1-flops30_mask-rcnn_8xb2-1x_coco'),
)
QUICK_PAIRS = (
    (
        'plain-mamba-mini_upernet_1xb8-450i_mini-ade-128x128',
        'plain-mamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128',
    ),
)
MODES = ('inference', 'training')
METHOD = (
    'Medians of synchronised runs after a warm-up, the models in turns, from the preprocessed batch on the device. '
    'Random weights and images of noise: the time depends on neither, but for what detectors find. In inference they '
    'get as many proposals as the config allows; random class scores pass no threshold, so mask heads have nothing to '
    'do there. In training the number of regions is what the config samples, of 8 objects per image and the proposals. '
    'A training step is losses, gradients and a step of AdamW. "x" is how many times as fast as the first model.'
)


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files, the dense one first')
    parser.add_argument('--batch', type=positive, default=2, help='images per step (default: %(default)s)')
    parser.add_argument('--shape', type=positive, nargs=2, metavar=('H', 'W'), help='in pixels (default: 512 512)')
    parser.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES), help='default: both')
    parser.add_argument('--no-memory', action='store_true', help='leave peak memory out')
    parser.add_argument('--peak-of', metavar='CASE', help=argparse.SUPPRESS)
    args = settle(parser, parser.parse_args(), cpu_runs=2)
    args.shape = tuple(args.shape or ((128, 128) if args.quick else (512, 512)))
    return parser, args


def main() -> None:
    """Measure group by group; the files are written anew after each mode."""
    _, args = parse_args()
    from mmssmprune.engine.errors import sentence_errors

    if args.peak_of:
        print_peak(json.loads(args.peak_of), args.device)
        return
    pairs = [[str(CONFIGS / f'{name}.py') for name in pair] for pair in (QUICK_PAIRS if args.quick else PAIRS)]
    columns = [
        Column('config', 'config'), Column('input', 'input'), Column('batch', 'batch', 0),
        Column('milliseconds', 'time (ms)', 1), Column('images_per_second', 'images/s', 2), Column('speedup', 'x', 2),
        Column('peak_mib', 'peak (MiB)', 1),
    ]  # fmt: skip
    tables = {mode: Table(mode.capitalize(), columns) for mode in MODES}
    machine = describe_machine(args.device, args.dtype)
    report = Report('Whole models, dense against pruned', shown_command(__file__), machine, METHOD, tables)
    for group in [args.configs] if args.configs else pairs:
        with sentence_errors(building=True):
            from mmssmprune.analysis.speed.whole_models import make_model

            models = {config: make_model(config, args.device) for config in group}
        for mode in args.modes:
            measure(models, mode, args, tables[mode])
            report.save(args.out, args.json)
    report.finish(args.out, args.json)


def measure(models: dict[str, nn.Module], mode: str, args: argparse.Namespace, table: Table) -> None:
    """Time all models of a group in one mode and append their rows."""
    calls = {config: make_call(model, mode, args.shape, args.batch, args.dtype) for config, model in models.items()}
    times, failures = time_in_turns(calls, args.device, args.runs, args.warmup)
    first = times.get(next(iter(models)))
    for config in models:
        row: Row = {
            'config': Path(config).stem, 'input': f'{args.shape[0]}x{args.shape[1]}', 'batch': args.batch, 'mode': mode,
            'milliseconds': times[config].median if config in times else None, 'failure': failures.get(config),
        }  # fmt: skip
        if config in times:
            row['images_per_second'] = 1000 * args.batch / times[config].median
            row['speedup'] = first.over(times[config]) if first else None
            row['peak_mib'] = None if args.no_memory else peak(config, calls[config], mode, args)
        else:
            table.notes.append(f'{row["config"]}: {row["failure"]}')
        table.rows.append(row)


def make_call(model: nn.Module, mode: str, shape: tuple[int, int], batch: int, dtype: str) -> Callable[[], None]:
    """What is timed."""
    from mmssmprune.analysis.speed import whole_models

    data = whole_models.make_batch(model, shape, batch, mode == 'training')
    step = whole_models.training_of if mode == 'training' else whole_models.inference_of
    return step(model, data, DTYPES[dtype])


def peak(config: str, call: Callable[[], None], mode: str, args: argparse.Namespace) -> float | None:
    """Peak MiB of a step, beyond the weights, and in training beyond AdamW's state on a GPU."""
    if args.device.type == 'cuda':
        return peak_mib(call, args.device)
    case = {'config': config, 'mode': mode, 'shape': args.shape, 'batch': args.batch, 'dtype': args.dtype}
    return peak_in_fresh_process(Path(__file__).resolve(), case, torch.get_num_threads())


def print_peak(asked: dict[str, Any], device: torch.device) -> None:
    """Body of the fresh process; a small batch first, so that libraries are loaded and compiled before counting."""
    from mmssmprune.analysis.speed.whole_models import make_model

    model = make_model(asked['config'], device)
    for shape, batch in (((64, 64), 2), (tuple(asked['shape']), asked['batch'])):
        found = peak_mib(make_call(model, asked['mode'], shape, batch, asked['dtype']), device)
    print(found)


if __name__ == '__main__':
    main()
