"""Train a detector (mmdet config), a segmentor (mmseg config) or a classifier (mmpretrain config)."""

from __future__ import annotations

import argparse

from mmssmprune._command_line import add_model, add_run, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model(parser, checkpoint=False)
    add_run(parser, 'logs and checkpoints')
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
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    import mmssmprune.analysis  # noqa: F401 (registers a hook that configs may name)
    from mmssmprune.engine import runner_setup
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        cfg = runner_setup.load_config(args.config, args.cfg_options)
        runner_setup.set_work_dir(cfg, args.config, args.work_dir)
        runner_setup.set_launcher(cfg, args.launcher, args.local_rank)
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
