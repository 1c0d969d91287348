"""Count a config's parameters, tokens and FLOPs by part and layer, the selective scan included.

    python tools/analysis_tools/get_flops.py configs/vim/<config>.py --shape 512 2048
    python tools/analysis_tools/get_flops.py <config> --convention plain-mamba field --json flops.json

Neither data nor weights are needed, and only shapes are computed, so that any size takes seconds. What a FLOP is has a
name; --list-conventions tells them all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mmssmprune._command_line import add_cfg_options, add_shape, make_console, make_parser

if TYPE_CHECKING:
    from mmssmprune.analysis.cost.conventions import Convention


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument('config', nargs='?', help='config file')
    add_shape(
        parser,
        'the one at which FLOPs of its task are published: 800 1280 for COCO, 512 2048 for segmentation, 224 224 for '
        'classification',
    )
    parser.add_argument(
        '--convention',
        nargs='+',
        default=['macs', 'field', 'two-per-mac'],
        metavar='NAME',
        help="what a FLOP is, or 'all' that fit the backbone (default: %(default)s)",
    )
    parser.add_argument('--list-conventions', action='store_true', help='say what each convention counts, and stop')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write everything there as well, as exact integers')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.config is None and not args.list_conventions:
        parser.error('give a config file, or --list-conventions')
    return args


def main() -> None:
    """Build, count, print."""
    args = parse_args()
    console = make_console()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        from mmssmprune.analysis.cost.conventions import CONVENTIONS, convention_for, conventions_named
        from mmssmprune.analysis.cost.model_cost import (
            build_without_weights,
            fitting_conventions,
            model_cost,
            usual_shape,
        )
        from mmssmprune.analysis.quiet import quiet
        from mmssmprune.analysis.results import check_output_file
        from mmssmprune.checkpoints.writing import write_whole
        from mmssmprune.engine.runner_setup import load_config

        if args.list_conventions:
            console.print(conventions_table([rule for name in CONVENTIONS for rule in conventions_named(name)]))
            return
        if args.json:
            check_output_file(args.json, '--json')
        cfg = load_config(args.config, args.cfg_options)
        with quiet():
            model = build_without_weights(cfg)
        conventions = fitting_conventions(model) if args.convention == ['all'] else args.convention
        shape = tuple(args.shape or usual_shape(cfg))
        cost = {'config': args.config, **model_cost(model, shape, conventions)}
        if args.json:
            write_whole(args.json, json.dumps(cost, indent=1))
    print_cost(cost, conventions, console)
    console.print(conventions_table([convention_for(name, model) for name in conventions]))


def print_cost(cost: dict, conventions: list[str], console: Console) -> None:
    """Parts, layers, plan, and what is not counted."""
    padded = f', padded to {_size(cost["padded_shape"])}' if cost['padded_shape'] != cost['shape'] else ''
    console.print(f'{cost["config"]}, one image of {_size(cost["shape"])}{padded}', markup=False, highlight=False)
    console.print(parts_table(cost, conventions))
    if 'layers' in cost:
        console.print(layers_table(cost['layers'], conventions))
    if 'plan' in cost:
        console.print(plan_lines(cost, conventions), highlight=False, markup=False)
    if cost['proposals']:
        console.print(f'RoI heads: counted at {cost["proposals"]} proposals, the configured maximum.', highlight=False)
    if cost['left_out']:
        print('Not counted, and missing in the tables:', cost['left_out'])
    if cost['unsupported']:
        found = ', '.join(f'{name.removesuffix(".default")} x {n}' for name, n in cost['unsupported'].items())
        console.print(f'No formula, counted as 0: {found}', markup=False, highlight=False)


def parts_table(cost: dict, conventions: list[str]) -> Table:
    """FLOPs and parameters of backbone, neck and heads."""
    table = _table('part', 'params (M)', *conventions)
    for part, params in cost['params'].items():
        flops = (_giga(cost['flops'][name][part]) for name in conventions)
        table.add_row(part, f'{params / 1e6:.3f}', *flops, style='bold' if part == 'total' else None)
    return table


def layers_table(layers: list[dict], conventions: list[str]) -> Table:
    """Tokens and FLOPs of each layer."""
    table = _table('layer', 'tokens', *conventions)
    for i, layer in enumerate(layers):
        table.add_row(str(i), str(layer['tokens']), *(_giga(layer['flops'][name]) for name in conventions))
    return table


def plan_lines(cost: dict, conventions: list[str]) -> str:
    """The pruning at work, and what it saves of the dense backbone."""
    plan = cost['plan']
    steps = ', '.join(
        f'{ratio:g} after layer {i}' for i, ratio in zip(plan['layers'], plan['keep_ratios'], strict=True)
    )
    lines = [f'Plan: keep {steps}.']
    for name in conventions:
        dense, pruned = cost['dense_flops'][name]['backbone'], cost['flops'][name]['backbone']
        change = 100 * (pruned / dense - 1)
        lines.append(f'Backbone, {name}: {_giga(dense)} G dense, {_giga(pruned)} G pruned, {change:+.2f} %.')
    return '\n'.join(lines)


def conventions_table(rules: list[Convention]) -> Table:
    """What each convention counts, and who counts so."""
    table = Table('convention', 'counts', 'as in')
    for rule in rules:
        table.add_row(rule.name, rule.rule, rule.source)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, caption='FLOPs in G, by convention')
    for title in others:
        table.add_column(title, justify='right')
    return table


def _giga(flops: int) -> str:
    return f'{flops / 1e9:.3f}'


def _size(shape: list[int]) -> str:
    return f'{shape[0]} x {shape[1]} pixels'


if __name__ == '__main__':
    main()
