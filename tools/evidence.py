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
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # the scans loop in Python; threads on top slow them down

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmssmprune.analysis.evidence.plan import PHASES, Run, Study, StudyFolders, StudySetting, load_plan, plan_runs
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
    add('--jobs', type=int, default=2, metavar='N', help='runs at the same time (default: %(default)s)')
    add('--minutes', type=float, metavar='M', help='begin nothing after so long')
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
    console = Console(file=sys.stdout, highlight=False)
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
    folders = StudyFolders(args.work_dir)
    for path in damaged_results(folders):
        console.print(f'{path} is damaged and counts as not there: its run is still to be done.', markup=False)
    if args.list:
        for run in runs:
            state = 'done' if read_result(folders.result(run)) else 'failed' if folders.error(run).exists() else 'to do'
            console.print(f'{state:7} {run.name}', markup=False)
        return
    well = args.report_only or do(runs, folders, args, console)
    with sentence_errors(building=True):
        from mmssmprune.analysis.evidence.report import write_report

        files = write_report(all_settings, all_studies, args.seeds, folders, args.out, COMMAND)
    console.print(f'Written: {args.out} ({", ".join(path.name for path in files)})', markup=False, emoji=False)
    sys.exit(0 if well else 1)


def choose(items: Sequence[StudySetting] | Sequence[Study], names: Sequence[str] | None, what: str) -> list:
    """Those of the names given, in that order; all without names."""
    by_name = {item.name: item for item in items}
    unknown = [name for name in names or [] if name not in by_name]
    if unknown:
        raise ValueError(f'there is no {what} {unknown[0]!r}; the names are {", ".join(by_name)}')
    return [by_name[name] for name in dict.fromkeys(names)] if names else list(items)


def do(runs: Sequence[Run], folders: StudyFolders, args: argparse.Namespace, console: Console) -> bool:
    """Do the runs, a line for each that ends and below it what is at work; False if any failed."""
    from mmssmprune.analysis.evidence.processes import StudyProgress, pending, work

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    before = len(runs) - len(pending(runs, folders))
    shown = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn('{task.description}', markup=False))
    with Progress(*shown, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task('', total=len(runs))

        def tell(state: StudyProgress, line: str | None) -> None:
            ended = before + len(state.done) + len(state.failed)
            bars.update(task, completed=ended, description='; '.join(state.working))
            if line is not None:
                console.print(f'{time.strftime("%H:%M:%S")}  {line}', markup=False)

        try:
            state = work(runs, folders, args.jobs, args.minutes, tell)
        except KeyboardInterrupt as interruption:
            console.print('Interrupted; the same command goes on from here.')
            sys.exit(128 + int(interruption.args[0] if interruption.args else signal.SIGINT))
    for name, reason in state.failed.items():
        console.print(f'FAILED {name}', style='bold red', markup=False)
        console.print('\n'.join(reason.splitlines()[-SHOWN_LINES:]), style='dim', markup=False)
    console.print(
        f'{len(state.done)} runs done, {before} were done before, {len(state.failed)} failed, '
        f'{len(state.left)} left for another time'
    )
    return not state.failed


def interrupt(number: int, frame: object) -> None:
    """A signal ends the work as Ctrl-C does."""
    raise KeyboardInterrupt(number)


if __name__ == '__main__':
    main()
