"""Test a checkpoint of a detector (mmdet config), a segmentor (mmseg config) or a classifier (mmpretrain config)."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from mmssmprune._command_line import add_model, add_run, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model(parser)
    add_run(parser, 'logs and metrics')
    parser.add_argument('--out', help='pickle file of all predictions; mmseg: folder of label maps (PNG)')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='folder for drawn predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds each picture is shown')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    import mmssmprune.analysis  # noqa: F401 (registers a hook that configs may name)
    from mmssmprune.engine import prediction_output, runner_setup
    from mmssmprune.engine.errors import sentence_errors

    with ExitStack() as test_run:
        with sentence_errors(building=True):
            cfg = runner_setup.load_config(args.config, args.cfg_options)
            runner_setup.set_work_dir(cfg, args.config, args.work_dir)
            runner_setup.set_launcher(cfg, args.launcher, args.local_rank)
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
