"""Train a detector (mmdet config), a segmentor (mmseg config) or a classifier (mmpretrain config)."""

from __future__ import annotations

import argparse
import os

import mmssmprune.analysis  # noqa: F401 (registers a hook that configs may name)
from mmssmprune._command_line import CfgOptionsAction
from mmssmprune.engine import runner_setup
from mmssmprune.engine.errors import sentence_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/<config name>)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a value, from the latest whole one in the work_dir',
    )
    parser.add_argument('--amp', action='store_true', help='train in automatic mixed precision (needs a GPU)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help="scale the learning rate to this run's total batch size"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptionsAction,
        metavar='KEY=VALUE',
        help='override settings of the config: a.b=1, a.list="[1,2]"; no blanks inside a value',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    with sentence_errors(building=True):
        cfg = runner_setup.load_config(args.config, args.cfg_options)
        runner_setup.set_work_dir(cfg, args.config, args.work_dir)
        runner_setup.set_launcher(cfg, args.launcher)
        runner_setup.set_resume(cfg, args.resume)
        if args.amp:
            runner_setup.enable_amp(cfg)
        if args.auto_scale_lr:
            runner_setup.enable_auto_scale_lr(cfg)
        runner = runner_setup.build_runner(cfg, 'train')
    with sentence_errors():
        runner.train()


if __name__ == '__main__':
    main()
