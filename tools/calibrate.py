"""Calibrate a finished checkpoint: measure the step sizes that the alignments `calibrated` and `learned` start from.

    python tools/calibrate.py CONFIG dense.pth calibrated.pth --batches 25

The config has pruning.alignment='calibrated' or 'learned'; the checkpoint may be of the dense model. Some batches
of the training data pass the dense backbone, nothing is trained, and the weights are written with what was measured.
"""

from __future__ import annotations

import argparse

from mmssmprune._command_line import add_model, make_parser, positive


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument('out', help='checkpoint file to write')
    parser.add_argument('--batches', type=positive, default=25, help='batches of training data (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        from mmengine.runner import Runner

        from mmssmprune.checkpoints.loading import load_checkpoint_strict
        from mmssmprune.checkpoints.writing import check_destination, save_checkpoint
        from mmssmprune.datasets import check_data_root
        from mmssmprune.engine import runner_setup
        from mmssmprune.engine.calibration import backbones_to_calibrate, calibrate
        from mmssmprune.engine.loading import build_model

        check_destination(args.checkpoint, args.out, force=True, doing='calibrate')
        cfg = runner_setup.load_config(args.config, args.cfg_options)
        check_data_root(cfg, ('train_dataloader',))
        model = build_model(cfg, seed=0)  # the seed also decides which images are seen
        backbones_to_calibrate(model)
        checkpoint = load_checkpoint_strict(model, args.checkpoint)
        dataloader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    with sentence_errors():
        images = calibrate(model, dataloader, args.batches)
        save_checkpoint(dict(meta=checkpoint.get('meta', {}), state_dict=model.cpu().state_dict()), args.out)
    print(f'{args.out}: calibrated on {images} images')


if __name__ == '__main__':
    main()
