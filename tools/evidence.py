"""Train and test the small models, dense and pruned in many ways, and write docs/results.

    python tools/evidence.py                                            # everything: many hours
    python tools/evidence.py alignment --settings vim-seg --phase free --minutes 60
    python tools/evidence.py --report-only

What has a result in DIR/<setting>/results is not run again, so an interrupted study goes on where it stopped; delete a
file there to run it anew. What is run is written in mmssmprune/analysis/evidence/study.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # the scans loop in Python; threads on top slow them down

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmssmprune.analysis.evidence.loading import load_plan
from mmssmprune.analysis.evidence.plan import PHASES, Places, Setting, Study, plan_runs
from mmssmprune.analysis.evidence.records import damaged_results, read_result
from mmssmprune.analysis.results import check_output
from mmssmprune.engine.errors import sentence_errors

COMMAND = 'make data && python tools/evidence.py'
SHOWN_LINES = 4


def parse_args() -> argparse.Namespace:
    """The command line."""
    summary, _, details = __doc__.partition('\n')
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('studies', nargs='*', metavar='STUDY', help='which studies, by priority (default: all)')
    add('--settings', nargs='+', metavar='NAME', help='which settings, such as vim-seg (default: all)')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='K', help='default: 0 1 2')
    add('--phase', choices=[*PHASES, 'all'], default='all', help='without fine-tuning, with it, or both (default)')
    add('--only', metavar='GLOB', help="only runs whose setting/study/row/phase/seed fits, e.g. '*/alignment/none/*'")
    add('--jobs', type=int, default=1, metavar='N', help='runs at the same time (default: %(default)s)')
    add('--minutes', type=float, metavar='M', help='start nothing that would not be finished after so long')
    add('--list', action='store_true', help='only list the runs: done, failed before, or to do')
    add('--report-only', action='store_true', help='run nothing, write the report from the results there are')
    add('--out', type=Path, default=Path('docs/results'), metavar='DIR', help='the report (default: %(default)s)')
    add('--work-dir', type=Path, default=Path('work_dirs/evidence'), metavar='DIR', help='default: %(default)s')
    add('--plan', type=Path, metavar='FILE.py', help='other SETTINGS and STUDIES than those of the project')
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f'--jobs wants a whole number above 0, got {args.jobs}')
    return args


def main() -> None:
    """Plan, run, report."""
    args = parse_args()
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = 120
    with sentence_errors(building=True):
        all_settings, all_studies = load_plan(args.plan)
        settings = choose(all_settings, args.settings, 'setting')
        studies = choose(all_studies, args.studies, 'study')
        phases = PHASES if args.phase == 'all' else (args.phase,)
        runs = plan_runs(studies, settings, args.seeds, phases, args.only)
        if not args.list:
            check_output(args.out)
    places = Places(args.work_dir)
    for path in damaged_results(places):
        console.print(f'{path} is damaged and counts as not there: its run is still to be done.', markup=False)
    if args.list:
        list_runs(runs, places, console)
        return
    failed = False
    if not args.report_only:
        failed = not work(runs, places, args, console)
    with sentence_errors(building=True):
        report(all_settings, all_studies, args, console)
    sys.exit(1 if failed else 0)


def choose(items: Sequence[Setting] | Sequence[Study], names: Sequence[str] | None, what: str) -> list:
    """Those of the names given, in that order; all without names."""
    by_name = {item.name: item for item in items}
    unknown = [name for name in names or [] if name not in by_name]
    if unknown:
        raise ValueError(f'there is no {what} {unknown[0]!r}; the names are {", ".join(by_name)}')
    return [by_name[name] for name in dict.fromkeys(names)] if names else list(items)


def list_runs(runs: Sequence, places: Places, console: Console) -> None:
    """Print the state of every run."""
    for run in runs:
        state = 'done' if read_result(places.result(run)) else 'failed' if places.error(run).is_file() else 'to do'
        console.print(f'{state:7} {run.name}', highlight=False, markup=False)


def work(runs: Sequence, places: Places, args: argparse.Namespace, console: Console) -> bool:
    """Do the runs; False if any failed."""
    from mmssmprune.analysis.evidence.schedule import Scheduler

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    with progress_on(console, len(runs)) as tell:
        scheduler = Scheduler(runs, places, args.jobs, args.minutes, tell)
        try:
            summary = scheduler.work()
        except KeyboardInterrupt as interrupt:
            console.print('Interrupted; the same command goes on from here.')
            sys.exit(128 + int(interrupt.args[0] if interrupt.args else signal.SIGINT))
    for name, reason in summary.failed.items():
        console.print(f'FAILED {name}', style='bold red', markup=False, highlight=False)
        console.print('\n'.join(reason.splitlines()[-SHOWN_LINES:]), style='dim', markup=False, highlight=False)
    console.print(
        f'{len(summary.done)} runs done, {scheduler.skipped} were done before, {len(summary.failed)} failed, '
        f'{len(summary.left)} left for another time',
        highlight=False,
    )
    return not summary.failed


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


@contextmanager
def progress_on(console: Console, total: int) -> Iterator:
    """A line that says how far it is and what is at work; ended runs scroll above it."""
    shown = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn('{task.description}', markup=False))
    with Progress(*shown, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task('', total=total)

        def tell(scheduler, line: str | None) -> None:
            now = time.monotonic()
            working = [f'{job.name} ({now - start:.0f} s)' for job, start in scheduler.working.values()]
            failed = len(scheduler.summary.failed)
            description = (f'{failed} failed | ' if failed else '') + (
                '; '.join(working) or 'waiting for another process'
            )
            bars.update(
                task, completed=scheduler.skipped + len(scheduler.summary.done) + failed, description=description
            )
            if line is not None:
                console.print(f'{time.strftime("%H:%M:%S")}  {line}', markup=False, highlight=False)

        yield tell


def report(settings: Sequence[Setting], studies: Sequence[Study], args: argparse.Namespace, console: Console) -> None:
    """Write the report of everything, whatever part of it was run now."""
    from mmssmprune.analysis.evidence.report import write_report

    places = Places(args.work_dir)
    files = write_report(settings, studies, args.seeds, places, args.out, COMMAND)
    written = ', '.join(path.name for path in files)
    console.print(f'Written: {args.out} ({written})', highlight=False, markup=False, emoji=False)


if __name__ == '__main__':
    main()
