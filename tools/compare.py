"""Compare dense and pruned models: FLOPs, parameters, latency and accuracy in one table and one plot.

    python tools/compare.py work_dirs/dense work_dirs/pruned --keep-ratio 1.0 0.8 0.6 --out work_dirs/compare

Each model is a work_dir (it holds a config and last_checkpoint), a config (work_dirs/<its name> is looked up for a
checkpoint), or a pair config.py:checkpoint.pth. What DIR/results/ already holds is not measured again, so an
interrupted comparison goes on where it stopped; delete that folder to measure anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import DictAction
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmssmprune.engine.errors import sentence_errors


def parse_args() -> argparse.Namespace:
    """The command line."""
    summary, _, details = __doc__.partition('\n')
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('models', nargs='+', metavar='MODEL', help='work_dir, config.py or config.py:checkpoint.pth')
    parser.add_argument(
        '--keep-ratio',
        type=keep_ratio,
        nargs='+',
        metavar='R',
        help='ratios at which each pruned model is tested (default: the one in its config)',
    )
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=2,
        metavar=('H', 'W'),
        help='input size in pixels at which FLOPs and latency are stated (default: that of the first test image)',
    )
    parser.add_argument(
        '--untrained', action='store_true', help='add, per task, the first model with random weights: what chance gives'
    )
    parser.add_argument(
        '--runs', type=non_negative, default=20, help='timed runs per row; 0 leaves latency out (default: %(default)s)'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/compare'), metavar='DIR', help='gets compare.md, .json and .png'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides merged into every config'
    )
    return parser.parse_args()


def keep_ratio(text: str) -> float:
    """A number in (0, 1]."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio <= 1:
        raise argparse.ArgumentTypeError(f'a keep ratio is a number above 0 and at most 1, got {text}')
    return ratio


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'expected a whole number above 0, got {text}')
    return int(text)


def non_negative(text: str) -> int:
    """A whole number, 0 included."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f'expected a whole number, got {text}')
    return int(text)


def main() -> None:
    """Parse, measure, write, print."""
    args = parse_args()
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = 120
    # Imported late: these bring torch, mmdet and mmseg, and a typing mistake should show at once.
    from mmssmprune.analysis.compare import compare
    from mmssmprune.analysis.entries import find_entries
    from mmssmprune.analysis.measure import Setting

    with sentence_errors(building=True):
        entries = find_entries(args.models, args.cfg_options)
    shape = tuple(args.shape) if args.shape else None
    with sentence_errors(), progress_on(console) as progress:
        setting = Setting(args.out, shape, args.runs, progress)
        report = compare(entries, setting, args.keep_ratio, args.untrained)
    report['command'] = command_line()
    write_report(report, args.out)
    print_report(report, args.out, console)


@contextmanager
def progress_on(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each long step on a terminal, and elsewhere (a log file) a line as it begins."""
    shown = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not console.is_terminal) as bars:
        begun: dict[str, int] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in begun:
                begun[what] = bars.add_task(what, total=total)
                if bars.disable:
                    print(f'{what} ...', flush=True)
            bars.update(begun[what], completed=done)

        yield report


def command_line() -> str:
    """The command as a reader can repeat it."""
    script = os.path.relpath(sys.argv[0])
    return shlex.join(['python', script, *sys.argv[1:]])


def write_report(report: dict, out_dir: Path) -> None:
    """Write compare.json, compare.md and compare.png, each whole or not at all."""
    from mmssmprune.analysis.plot import plot_report
    from mmssmprune.analysis.results import write_atomically
    from mmssmprune.analysis.table import to_markdown

    write_atomically(out_dir / 'compare.json', json.dumps(report, indent=1))
    write_atomically(out_dir / 'compare.md', to_markdown(report))
    write_atomically(out_dir / 'compare.png', plot_report(report))


def print_report(report: dict, out_dir: Path, console: Console) -> None:
    """The tables and their notes on the terminal."""
    from mmssmprune.analysis.table import notes, to_rich

    for table in report['tables']:
        console.print(to_rich(table))
    for note in notes(report):
        console.print(note, style='dim', markup=False, highlight=False)
    console.print(f'Written: {out_dir}/compare.md, compare.json, compare.png', highlight=False)


if __name__ == '__main__':
    main()
