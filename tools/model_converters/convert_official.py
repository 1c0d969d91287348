"""Convert a checkpoint of the official PlainMamba, Vim or VMamba repository to this package's layout, or back.

    python tools/model_converters/convert_official.py l1.pth plain_mamba_l1.pth
    python tools/model_converters/convert_official.py vim_t.pth vim_tiny.pth --arch vim_tiny --json
    python tools/model_converters/convert_official.py their_upernet.pth upernet.pth --config CONFIG
    python tools/model_converters/convert_official.py epoch_12.pth for_them.pth --to-official

Classification, detection and segmentation files, which it tells apart itself. It prints what became of every key, and
refuses a file of another architecture. The file is read without running code that it may carry. What comes out serves
init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.'), and, if it holds the heads too, tools/test.py.
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from mmssmprune._command_line import make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('source', help='checkpoint file to read')
    parser.add_argument('destination', help='checkpoint file to write')
    target = parser.add_mutually_exclusive_group()
    target.add_argument('--config', help='config of the model that is to be filled; resizes position embeddings to it')
    target.add_argument(
        '--arch', help='backbone that the file has to hold, e.g. plain_mamba_l1, vim_tiny or vmamba_tiny'
    )
    target.add_argument('--to-official', action='store_true', help="from this package's layout to the official one")
    parser.add_argument('--json', action='store_true', help='write the report beside the result, as DESTINATION.json')
    parser.add_argument('--every-key', action='store_true', help='print a row per key instead of groups')
    parser.add_argument('--force', action='store_true', help='replace DESTINATION if it exists')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        import mmssmprune.models  # noqa: F401  registers the backbones, whose sizes the layouts name
        from mmssmprune.analysis.results import check_output_file, file_digest
        from mmssmprune.checkpoints import official
        from mmssmprune.checkpoints.reading import read_checkpoint
        from mmssmprune.checkpoints.writing import check_destination, write_whole
        from mmssmprune.engine import runner_setup
        from mmssmprune.engine.loading import build_model

        names = official.architectures()
        if args.arch is not None and args.arch not in names:
            raise ValueError(f'--arch is {args.arch!r}; the names are {", ".join(names)}')
        check_destination(args.source, args.destination, force=args.force)
        check_output_file(args.destination, 'DESTINATION')
        model = build_model(runner_setup.load_config(args.config), device='cpu') if args.config else None
    with sentence_errors(building=True):  # building: the disk may be full
        checkpoint = read_checkpoint(args.source)
        direction = 'mmssmprune to official' if args.to_official else 'official to mmssmprune'
        report = official.ConversionReport(args.source, file_digest(args.source), direction)
        if args.to_official:
            content = official.convert_to_official(checkpoint, report)
        else:
            content = {'state_dict': official.convert_to_ours(checkpoint, report, model, args.arch)}
        official.write_converted(content, report, args.destination)
        if args.json:
            write_whole(f'{args.destination}.json', json.dumps(report.as_dict(), indent=1) + '\n')
    Console(markup=False, emoji=False).print(report.tables(every_key=args.every_key))
    print(f'{args.destination}: {report.used} keys of {args.source}, and {len(report.added)} added')


if __name__ == '__main__':
    main()
