"""Test a checkpoint of a detector (mmdet config), a segmentor (mmseg config) or a classifier (mmpretrain config)."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack

import mmssmprune.analysis  # noqa: F401 (registers a hook that configs may name)
from mmssmprune._command_line import CfgOptionsAction
from mmssmprune.engine import prediction_output, runner_setup
from mmssmprune.engine.errors import sentence_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for logs and metrics (default: work_dirs/<config name>)')
    parser.add_argument('--out', help='pickle file of all predictions; mmseg: folder of label maps (PNG)')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='folder for drawn predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds each picture is shown')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptionsAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. model.backbone.pruning.keep_ratio=0.7; no blanks inside a value',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    with ExitStack() as test_run:
        with sentence_errors(building=True):
            cfg = runner_setup.load_config(args.config, args.cfg_options)
            runner_setup.set_work_dir(cfg, args.config, args.work_dir)
            runner_setup.set_launcher(cfg, args.launcher)
            cfg.resume, cfg.load_from = False, args.checkpoint
            if args.out:
                prediction_output.dump_predictions(cfg, args.out, test_run)
            if args.show or args.show_dir:
                prediction_output.draw_predictions(cfg, args.show, args.show_dir, args.wait_time)
            if args.tta:
                prediction_output.enable_tta(cfg)
            runner = runner_setup.build_runner(cfg, 'test')
        with sentence_errors():
            runner.test()


if __name__ == '__main__':
    main()
