"""Train and test the small models, dense and pruned in many ways, and write docs/results.

    python tools/evidence.py                                            # everything: many hours
    python tools/evidence.py alignment --settings vim-camvid --phase free --minutes 60
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
from typing import TYPE_CHECKING

from mmssmprune._command_line import make_parser, positive

if TYPE_CHECKING:
    from mmssmprune.analysis.evidence.plan import Run

SHOWN_LINES = 4


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('studies', nargs='*', metavar='STUDY', help='which studies, by priority (default: all)')
    add('--settings', nargs='+', metavar='NAME', help='which settings, such as vim-camvid (default: all)')
    add('--seeds', type=int, nargs='+', metavar='K', help='default: those of the plan, 0 1 2 if it says none')
    add(
        '--phase',
        choices=['free', 'tuned', 'all'],
        default='all',
        help='without fine-tuning, with it, or both (default)',
    )
    add('--only', metavar='GLOB', help="only runs whose setting/study/row/phase/seed fits, e.g. '*/alignment/none/*'")
    add('--jobs', type=positive, default=2, metavar='N', help='runs at the same time (default: %(default)s)')
    add('--minutes', type=float, metavar='M', help='begin nothing after so long')
    add('--list', action='store_true', help='only list the runs: done, failed before, or to do')
    add('--report-only', action='store_true', help='run nothing, write the report from the results there are')
    add('--out', type=Path, default=Path('docs/results'), metavar='DIR', help='the report (default: %(default)s)')
    add('--work-dir', type=Path, default=Path('work_dirs/evidence'), metavar='DIR', help='default: %(default)s')
    add('--plan', type=Path, metavar='FILE.py', help='another plan than that of the project, written in the same way')
    return parser.parse_args()


def main() -> None:
    """Plan, run, report."""
    args = parse_args()
    os.environ['OMP_NUM_THREADS'] = '1'  # in every process: the scans loop in Python, and threads slow them down
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.analysis.evidence.plan import PHASES, error_file, load_plan, plan_runs
    from mmssmprune.analysis.evidence.records import read_csv, read_results
    from mmssmprune.analysis.results import check_output
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        plan = load_plan(args.plan)
        studies, settings = choose(plan.studies, args.studies, 'study'), choose(plan.settings, args.settings, 'setting')
        seeds = plan.seeds if args.seeds is None else args.seeds
        phases = PHASES if args.phase == 'all' else (args.phase,)
        runs = plan_runs(studies, settings, seeds, phases, args.only)
        if not args.list:
            check_output(args.out)
            read_csv(args.out / 'results.csv')  # what the report is to keep: better refused now than after the runs
    for path, result in read_results(args.work_dir).items():
        if result is None:
            print(f'{path} is damaged and counts as not there: its run is still to be done.')
    if args.list:
        for run in runs:
            failed = error_file(args.work_dir, run).exists()
            print(f'{"done" if is_done(run, args.work_dir) else "failed" if failed else "to do":7} {run.name}')
        return
    well = args.report_only or do(runs, args)
    with sentence_errors(building=True):
        from mmssmprune.analysis.evidence.report import write_report

        files = write_report(plan, seeds, args.work_dir, args.out)
    print(f'Written: {args.out} ({", ".join(path.name for path in files)})')
    sys.exit(0 if well else 1)


def choose(items: Sequence, names: Sequence[str] | None, what: str) -> list:
    """Those of the names given, in that order; all without names."""
    by_name = {item.name: item for item in items}
    unknown = [name for name in names or [] if name not in by_name]
    if unknown:
        raise ValueError(f'there is no {what} {unknown[0]!r}; the names are {", ".join(by_name)}')
    return [by_name[name] for name in dict.fromkeys(names)] if names else list(items)


def is_done(run: Run, root: Path) -> bool:
    """Whether its whole result is there."""
    from mmssmprune.analysis.evidence.plan import result_file
    from mmssmprune.analysis.evidence.records import read_result

    return read_result(result_file(root, run)) is not None


def do(runs: Sequence[Run], args: argparse.Namespace) -> bool:
    """Do those that are not done, and tell of each that ends; False if any failed."""
    from mmssmprune.analysis.evidence.processes import work

    heed_signals()
    root = args.work_dir
    todo = [run for run in runs if not is_done(run, root)]
    try:
        failed = work(todo, root, args.jobs, args.minutes, lambda line: print(f'{time.strftime("%X")}  {line}'))
    except KeyboardInterrupt as interruption:
        print('Interrupted; the same command goes on from here.')
        sys.exit(128 + int(interruption.args[0] if interruption.args else signal.SIGINT))
    for name, reason in failed.items():
        print(f'FAILED {name}', *reason.splitlines()[-SHOWN_LINES:], sep='\n')
    done = [run for run in todo if is_done(run, root)]
    fails = [run for run in todo if run.name in failed]
    print(
        f'{len(done)} runs done, {len(runs) - len(todo)} were done before, {len(fails)} failed, '
        f'{len(todo) - len(done) - len(fails)} left for another time'
    )
    return not failed


def heed_signals() -> None:
    """They end the work as Ctrl-C does; but what nohup has it ignore stays ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


if __name__ == '__main__':
    main()
