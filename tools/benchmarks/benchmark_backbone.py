"""How much of the FLOPs that pruning saves becomes time, by backbone, image size and batch size.

    python tools/benchmarks/benchmark_backbone.py --train --out backbone.md --json backbone.json
    python tools/benchmarks/benchmark_backbone.py --backbone vim-s --sizes 512x2048 --batches 2 --keep-ratios 0.7 0.5

Dense against pruned with random weights, pruned after a quarter of the depth (VMamba: where its default is) unless
--layers says otherwise.
docs/benchmarks.md says how to read the tables.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import torch

from mmssmprune._command_line import image_size, keep_ratio, positive
from mmssmprune.analysis.speed.cases import BACKBONE_INPUTS, BACKBONES, KEEP_RATIOS
from mmssmprune.analysis.speed.command_line import DTYPES, make_parser, refusing, settle
from mmssmprune.analysis.speed.goals import cpu_goals, gpu_goals
from mmssmprune.analysis.speed.memory import peak_of
from mmssmprune.analysis.speed.profile_groups import time_by_group
from mmssmprune.analysis.speed.report import BenchmarkReport, BenchmarkTable, Entries
from mmssmprune.analysis.speed.timing import Timing, captured, time_rows
from mmssmprune.ops import available_backends
from mmssmprune.pruning import ALIGNMENT

MODES = {'forward': 'Forward', 'training': 'Forward and backward'}
# The reference loop is timed on a CPU up to so many patches of 16 in the batch, or if asked for: it takes minutes.
NAIVE_TOKENS = 400
Models = dict[str, torch.nn.Module]
METHOD = (
    'Medians of synchronised runs after a warm-up, dense and pruned in turns. Time and FLOPs ratio are pruned over '
    'dense, the former the median of the ratios run by run; share is (1 - time ratio) / (1 - FLOPs ratio), how much of '
    'the FLOPs saving became time. Alignment cost is the time over that with alignment none at the same keep ratio, '
    'less one. Random weights, images of noise.'
)


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument('--backbone', choices=BACKBONES, default='plain-mamba-l1', help='default: %(default)s')
    parser.add_argument('--sizes', nargs='+', type=image_size, metavar='HxW', help='of images, padded to whole patches')
    parser.add_argument('--batches', nargs='+', type=positive, metavar='N', help='batch sizes')
    parser.add_argument('--keep-ratios', nargs='+', type=keep_ratio, metavar='RATIO', help='0.9 to 0.3 by default')
    parser.add_argument('--layers', nargs='+', type=int, metavar='I', help='prune after these (0-based)')
    parser.add_argument('--alignment', choices=ALIGNMENT, default='carry', help='default: %(default)s')
    parser.add_argument('--train', action='store_true', help='also forward and backward, with peak memory')
    parser.add_argument('--profile', action='store_true', help='also where the time of a forward pass goes')
    parser.add_argument('--cuda-graph', action='store_true', help='replay each forward pass as a CUDA graph')
    parser.add_argument('--naive', action='store_true', help='time the reference loop at any size, which takes minutes')
    parser.add_argument('--no-backends', action='store_true', help='do not time the dense one by other scan backends')
    args = settle(parser)
    if args.cuda_graph and args.device.type != 'cuda':
        parser.error('--cuda-graph needs a GPU')
    return parser, args


def main() -> None:
    """Measure case by case; the files are written anew after each."""
    parser, args = parse_args()
    from mmssmprune.analysis.speed import backbone_cases

    args.keep_ratios = args.keep_ratios or KEEP_RATIOS[args.device.type]
    tables = make_tables()
    report = BenchmarkReport('Backbone, dense against pruned', METHOD, tables, args)
    for image, batch in wanted_cases(args):
        case = backbone_cases.BackboneCase(args.backbone, image, batch)
        with refusing(parser):
            models = {
                name: backbone_cases.make_backbone(case, **variant, layers=args.layers).to(args.device)
                for name, variant in variants(args).items()
            }
        for mode in MODES if args.train else ['forward']:
            measure(case, models, mode, args, tables[mode])
        if not args.no_backends:
            tables['backends'].rows += measure_backends(case, models['dense'], args)
        if args.profile:
            tables['profile'].rows += profile_rows(case, models, args)
        report.save()
    every_row = [row for name in (*MODES, 'backends') for row in tables[name].rows]
    tables['goals'].rows = (cpu_goals if args.device.type == 'cpu' else gpu_goals)(every_row)
    report.finish()


def wanted_cases(args: argparse.Namespace) -> list[tuple[tuple[int, int], int]]:
    """Sizes and batches; naming either gives every combination."""
    defaults = BACKBONE_INPUTS[args.device.type][args.quick]
    if not args.sizes and not args.batches:
        return list(defaults)
    sizes = args.sizes or list(dict.fromkeys(image for image, _ in defaults))
    return [(image, batch) for image in sizes for batch in args.batches or [1]]


def variants(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """By name: the dense model, the pruned ones, and one of those without alignment, which costs the same at each."""
    found = {'dense': {'keep_ratio': None, 'alignment': None}}
    found |= {f'keep {ratio:g}': {'keep_ratio': ratio, 'alignment': args.alignment} for ratio in args.keep_ratios}
    if args.alignment != 'none':
        ratio = args.keep_ratios[len(args.keep_ratios) // 2]
        found[f'keep {ratio:g}, none'] = {'keep_ratio': ratio, 'alignment': 'none'}
    return found


def measure(case: Any, models: Models, mode: str, args: argparse.Namespace, table: BenchmarkTable) -> None:
    """Time all models of a case in one mode and append their rows."""
    from mmssmprune.analysis.speed import backbone_cases as cases

    images, step = cases.make_images(case, args.device), cases.forward_of if mode == 'forward' else cases.training_of
    calls = {name: step(model, images, DTYPES[args.dtype]) for name, model in models.items()}
    if args.cuda_graph and mode == 'forward':
        calls = {name: captured(call) for name, call in calls.items()}
    rows = {name: {**about(case, mode), 'kind': kind_of(name), **variant} for name, variant in variants(args).items()}
    times = time_rows(rows, calls, args)
    for name, row in rows.items():
        if mode == 'training' and name in times:
            weighed = {**asdict(case), **variants(args)[name], 'layers': args.layers, 'dtype': args.dtype}
            # Importing mmcv takes seconds, and these backbones do without.
            without_mmcv = {'MMSSMPRUNE_WITHOUT_MMCV': '1'}
            row['peak_mib'] = peak_of(calls[name], args, cases.calls_to_weigh, weighed, **without_mmcv)
        row['flops'] = cases.count_flops(models[name], case)
        row['flops_ratio'] = row['flops'] / rows['dense']['flops']
        compare(row, times.get(name), times.get('dense'), times.get(f'{name}, none'))
        table.rows.append(row)
        table.notes += [f'{row["case"]}, {name}: {row["failure"]}'] if row['failure'] else []


def kind_of(name: str) -> str:
    """How the goals call it."""
    return 'dense' if name == 'dense' else 'unaligned' if name.endswith(', none') else 'pruned'


def about(case: Any, mode: str) -> Entries:
    """What a row says about its case."""
    shown = f'{case.backbone}, {case.image[0]}x{case.image[1]}, batch {case.batch}'
    return {
        'case': shown, 'backbone': case.backbone, 'image': case.image, 'padded': case.padded, 'batch': case.batch,
        'mode': mode,
    }  # fmt: skip


def compare(row: Entries, timing: Timing | None, dense: Timing | None, unaligned: Timing | None) -> None:
    """Add the time over that of the dense model, what of the saving became time, and what alignment costs."""
    if timing is None or dense is None:
        return
    row['time_ratio'] = timing.over(dense)
    if row['flops_ratio'] < 1:
        row['share'] = (1 - row['time_ratio']) / (1 - row['flops_ratio'])
    if unaligned:
        row['alignment_cost'] = timing.over(unaligned) - 1


def measure_backends(case: Any, dense: torch.nn.Module, args: argparse.Namespace) -> list[Entries]:
    """Time the dense forward pass by every scan backend; the ratio is to the default one, the last."""
    from mmssmprune.analysis.speed import backbone_cases as cases

    images, names = cases.make_images(case, args.device), available_backends(args.device)
    pixels = case.batch * case.padded[0] * case.padded[1]
    if not args.naive and (args.device.type != 'cpu' or pixels > NAIVE_TOKENS * cases.PATCH**2):
        names.remove('naive')
    calls = {name: cases.forward_of(dense, images, DTYPES[args.dtype], name) for name in names}
    rows = {name: {**about(case, 'forward'), 'kind': 'dense by backend', 'scan': name} for name in names}
    times = time_rows(rows, calls, args)
    for name, row in rows.items():
        timed, default = times.get(name), times.get(names[-1])
        row['time_ratio'] = timed.over(default) if timed and default else None
    return list(rows.values())


def profile_rows(case: Any, models: Models, args: argparse.Namespace) -> list[Entries]:
    """Milliseconds by group of operators, dense and pruned."""
    from mmssmprune.analysis.speed import backbone_cases as cases

    images = cases.make_images(case, args.device)
    found = {
        name: time_by_group(cases.forward_of(model, images, DTYPES[args.dtype]), args.device)
        for name, model in models.items()
    }
    return [{**about(case, 'forward'), 'model': name, 'group': group, 'milliseconds': ms,
             'of_dense': ms / found['dense'][group] if found['dense'][group] else None}
            for name, groups in found.items() for group, ms in groups.items()]  # fmt: skip


def make_tables() -> dict[str, BenchmarkTable]:
    """Empty tables of everything that is measured."""
    case, milliseconds = {'case': 'case'}, {'milliseconds': ('time (ms)', 2)}
    forward = case | {'keep_ratio': ('keep ratio', 2), 'alignment': 'alignment', 'flops_ratio': ('FLOPs ratio', 3)}
    forward |= milliseconds | {
        'time_ratio': ('time ratio', 3), 'share': ('share', 2), 'alignment_cost': ('alignment cost', 3),
    }  # fmt: skip
    backends = case | {'scan': 'scan backend'} | milliseconds | {'time_ratio': ('over the default', 2)}
    profile = case | {'model': 'model', 'group': 'operators'} | milliseconds | {'of_dense': ('of dense', 2)}
    goals = {
        'goal': 'goal', 'wanted': 'wanted', 'measured': ('worst', 3), 'median': ('median', 3),
        'verdict': 'verdict of the worst',
    }  # fmt: skip
    return {
        'forward': BenchmarkTable(MODES['forward'], forward),
        'training': BenchmarkTable(MODES['training'], forward | {'peak_mib': ('peak (MiB)', 1)}),
        'backends': BenchmarkTable('Dense forward by scan backend', backends),
        'profile': BenchmarkTable('Where the time of a forward pass goes', profile),
        'goals': BenchmarkTable('Goals', goals),
    }


if __name__ == '__main__':
    main()
