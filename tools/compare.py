"""Compare dense and pruned models: FLOPs, parameters, latency and accuracy in one table, with plots.

    python tools/compare.py work_dirs/dense work_dirs/pruned --keep-ratio 1.0 0.8 0.6 --out work_dirs/compare

Each MODEL is a work_dir (it holds a config and last_checkpoint), a config (work_dirs/<its name> is looked up for a
checkpoint; without one the row says `not run` and needs no data), a pair config.py:checkpoint.pth, or an earlier result
(compare.json, or the folder with it), whose rows join the table as they are. mmdet::swin/x.py is a config of mmdet.
Checkpoints that differ by the seed of their training alone become one row with mean and spread. What DIR/results/
already holds is not measured again, so an interrupted comparison goes on where it stopped; delete that folder to
measure anew. Latencies of different devices are refused. docs/compare.md says more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmssmprune._command_line import (
    add_cfg_options,
    add_shape,
    command_line,
    keep_ratio,
    make_console,
    make_parser,
    non_negative,
    positive,
)

if TYPE_CHECKING:
    from rich.console import Console

    from mmssmprune.analysis.comparison.report import ComparisonReport


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'models', nargs='+', metavar='MODEL', help='work_dir, config.py, config.py:checkpoint.pth or compare.json'
    )
    parser.add_argument(
        '--keep-ratio',
        type=keep_ratio,
        nargs='+',
        metavar='R',
        help='ratios at which each pruned model is tested (default: the one in its config)',
    )
    what = 'input size in pixels at which FLOPs and latency are stated'
    add_shape(parser, 'that of earlier results, else of the first test image', what)
    parser.add_argument(
        '--untrained', action='store_true', help='add, per task, the first model with random weights: what chance gives'
    )
    parser.add_argument(
        '--runs', type=non_negative, default=20, help='timed runs per row; 0 leaves latency out (default: %(default)s)'
    )
    parser.add_argument(
        '--batch-sizes',
        type=positive,
        nargs='+',
        default=[],
        metavar='N',
        help='add images per second of the whole model at these batch sizes (default: none)',
    )
    parser.add_argument(
        '--forms',
        nargs='+',
        default=['eager'],
        metavar='FORM',
        help='add latency with the backbone in other forms: compile (torch.compile), torch or onnx (as exported)',
    )
    parser.add_argument(
        '--per-class', action='store_true', help='add a table of the IoU of every class, and compare-classes.csv'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/compare'),
        metavar='DIR',
        help='gets compare.md, .csv, .tex, .json, .html and the plots (default: %(default)s)',
    )
    add_cfg_options(parser, 'overrides merged into every config')
    args = parser.parse_args()
    if not args.runs and (args.batch_sizes or set(args.forms) != {'eager'}):
        parser.error('--batch-sizes and --forms are latencies, which --runs 0 leaves out')
    return args


def main() -> None:
    """Parse, measure, write, print."""
    args = parse_args()
    console = make_console()
    # Imported late: these bring torch, mmdet and mmseg, and a typing mistake should show at once.
    from mmssmprune.analysis.comparison.compare import compare
    from mmssmprune.analysis.comparison.measure import MeasureSetting
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        models = find_models(args.models, args.cfg_options)
    shape = tuple(args.shape) if args.shape else None
    with sentence_errors(), progress_on(console) as progress:
        timing = dict(latency_runs=args.runs, batch_sizes=tuple(args.batch_sizes), forms=tuple(args.forms))
        setting = MeasureSetting(args.out, shape, **timing, per_class=args.per_class, progress=progress)
        report = compare(models, setting, args.keep_ratio, args.untrained)
    report = replace(report, command=command_line())
    with sentence_errors(building=True):  # the disk may be full by now
        names = write_report(report, args.out)
    print_report(report, console)
    console.print(f'Written to {args.out}: {", ".join(names)}', markup=False, highlight=False)


def find_models(targets: list[str], cfg_options: dict | None) -> list:
    """Entries to measure and reports of earlier runs, in the order of the command line."""
    from mmssmprune.analysis.comparison.entries import find_entries
    from mmssmprune.analysis.comparison.report import is_report, read_report

    earlier = {i: read_report(target) for i, target in enumerate(targets) if is_report(target)}
    entries = iter(find_entries([target for i, target in enumerate(targets) if i not in earlier], cfg_options))
    return [earlier[i] if i in earlier else next(entries) for i in range(len(targets))]


@contextmanager
def progress_on(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each long step on a terminal, and elsewhere (a log file) a line as it begins."""
    from mmssmprune.analysis.escape import one_line

    shown = (TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not console.is_terminal) as bars:
        begun: dict[str, int] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in begun:
                begun[what] = bars.add_task(what, total=total)
                if bars.disable:
                    # Not to sys.stdout, which is closed to libraries while they work.
                    print(f'{one_line(what)} ...', file=console.file, flush=True)
            bars.update(begun[what], completed=done)

        yield report


def write_report(report: ComparisonReport, out_dir: Path) -> list[str]:
    """Write the report in every format, each file whole or not at all; gives their names."""
    from mmssmprune.analysis.comparison import formats
    from mmssmprune.analysis.comparison.plot import plot_report
    from mmssmprune.analysis.comparison.report import FILE_NAME, to_json
    from mmssmprune.checkpoints.writing import write_whole

    plots, classes = plot_report(report), formats.classes_csv(report)
    files = {
        FILE_NAME: to_json(report),
        'compare.md': formats.to_markdown(report, {name: text for name, (text, _) in plots.items()}),
        'compare.csv': formats.to_csv(report),
        'compare.tex': formats.to_latex(report),
        'compare.html': formats.to_html(report, plots),
        **({'compare-classes.csv': classes} if classes else {}),
        **{name: png for name, (_, png) in plots.items()},
    }
    for name, content in files.items():
        write_whole(out_dir / name, content)
    return list(files)


def print_report(report: ComparisonReport, console: Console) -> None:
    """The tables and their notes on the terminal."""
    from mmssmprune.analysis.comparison.formats import to_rich
    from mmssmprune.analysis.comparison.tables import Footnotes, notes
    from mmssmprune.analysis.escape import one_line

    footnotes = Footnotes(report)
    for table in report.tables:
        console.print(to_rich(table, footnotes))
    for note in [*notes(report), *footnotes.lines()]:
        console.print(one_line(note), style='dim', markup=False, highlight=False)


if __name__ == '__main__':
    main()
