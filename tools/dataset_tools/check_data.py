"""Check a data set before a training starts: what is missing, unreadable or does not fit together.

    python tools/dataset_tools/check_data.py coco                    # $MMSSMPRUNE_DATA_ROOT/coco, or data/coco
    python tools/dataset_tools/check_data.py ade --root /data/ADEChallengeData2016
    python tools/dataset_tools/check_data.py imagenet --quick
    python tools/dataset_tools/check_data.py configs/vim/CONFIG.py   # whatever its dataloaders read

A set is judged by what its loader yields. Counts are compared with those of the published sets. The exit status is 1 if
something is wrong, 0 otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmssmprune._command_line import make_parser, positive

if TYPE_CHECKING:
    from mmssmprune.datasets.check_findings import Findings
    from mmssmprune.datasets.check_parts import Part


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('what', help='coco, ade, imagenet, or a config file')
    parser.add_argument('--root', type=Path, help='folder of the data set (not with a config)')
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument('--quick', action='store_true', help='names, counts and annotations only; open no image')
    depth.add_argument('--full', action='store_true', help='decode every image, which finds files that were cut short')
    parser.add_argument('--workers', type=positive, default=4 * (os.cpu_count() or 1), help='threads (%(default)s)')
    return parser.parse_args()


def find_parts(args: argparse.Namespace) -> list[Part]:
    from mmssmprune.datasets.check_parts import FOLDERS, parts_of_config, published_parts
    from mmssmprune.engine.runner_setup import load_config

    if args.what not in FOLDERS:
        if args.root is not None:
            raise ValueError('--root goes with coco, ade or imagenet; a config names its folders itself')
        if not Path(args.what).is_file():
            raise ValueError(f'{args.what} is neither a config file nor one of {", ".join(FOLDERS)}')
        return parts_of_config(load_config(args.what))
    root = args.root or Path(os.environ.get('MMSSMPRUNE_DATA_ROOT', 'data')) / FOLDERS[args.what]
    return published_parts(args.what, root)


def tell(findings: Findings) -> None:
    """One line on what was looked at, then one per kind of finding."""
    print(f'{findings.part}: {", ".join(findings.seen) or "nothing to look at"}')
    for sentence in findings.sentences():
        print(f'  wrong: {sentence}')
    for sentence in findings.sentences(notes=True):
        print(f'  note: {sentence}')


def main() -> int:
    args = parse_args()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.datasets.check_files import How
    from mmssmprune.datasets.check_parts import check_parts
    from mmssmprune.engine.errors import sentence_errors

    sys.stdout.reconfigure(errors='backslashreplace')  # file names may hold what the terminal cannot show
    with sentence_errors(building=True):
        parts = find_parts(args)
    depth = 'names' if args.quick else 'pixels' if args.full else 'headers'
    columns = (TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as progress:

        def track(items: Iterable, total: int, what: str) -> Iterable:
            return progress.track(items, total=total, description=what)

        found = check_parts(parts, How(depth, args.workers, track))
    for findings in found:
        tell(findings)
    wrong = sum(len(findings.wrong) for findings in found)
    print(f'{wrong} kind{"s" * (wrong != 1)} of things wrong' if wrong else 'nothing wrong')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
