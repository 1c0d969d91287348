"""Print all jobs of the tables of COCO and ADE20K as a shell script: train, test and compare, dense, pruned and peers.

    python tools/run_sheet.py coco ade20k --families vmamba --out jobs.sh && bash jobs.sh
    python tools/run_sheet.py coco --slurm PARTITION

Jobs whose last checkpoint is in work_dirs/ stand there as comments. Fine-tuning and elastic training start from the
dense model of their table. docs/reproduce.md explains each step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssmprune._command_line import make_parser, positive


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    families = ['plain_mamba', 'vim', 'vmamba']
    parser.add_argument('data', nargs='+', choices=['coco', 'ade20k'], help='whose tables')
    parser.add_argument('--families', nargs='+', choices=families, default=families, help='default: all')
    parser.add_argument('--gpus', type=positive, default=0, metavar='N', help='GPUs per job (default: as in the names)')
    parser.add_argument('--slurm', default='', metavar='PARTITION', help='for Slurm instead of this machine')
    parser.add_argument('--out', metavar='FILE', help='write it there instead of printing it')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported late: the package brings torch, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        from mmssmprune.analysis.run_sheet import Launcher, find_jobs, write_sheet
        from mmssmprune.checkpoints.writing import write_whole

        jobs = find_jobs(Path('configs'), list(dict.fromkeys(args.data)), list(dict.fromkeys(args.families)))
        if not jobs:
            raise ValueError('there are no configs here; start this from the root of the repository')
        sheet = write_sheet(jobs, Launcher(args.slurm, args.gpus), Path())
        if args.out:
            write_whole(args.out, sheet)
        else:
            print(sheet, end='')


if __name__ == '__main__':
    main()
