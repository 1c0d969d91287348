"""Make a finished checkpoint a small file for others: weights, config and metrics, without optimizer and log history.

    python tools/model_converters/publish.py work_dirs/NAME/iter_160000.pth published/NAME.safetensors

The first eight digits of the weights' SHA-256 are added to the name. Both .safetensors and .pth are read wherever this
package reads weights. The metrics are those of the checkpoint's own validation, from the log beside it.
"""

from __future__ import annotations

import argparse

from mmssmprune._command_line import make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('source', help='checkpoint file to read')
    parser.add_argument('destination', help='file to write, .safetensors or .pth; the hash is added to its name')
    parser.add_argument('--force', action='store_true', help='replace a file of that name')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported late: torch takes seconds, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        from mmssmprune.checkpoints.publishing import publish

        path, meta = publish(args.source, args.destination, force=args.force)
    metrics = ', '.join(f'{name} {value:g}' for name, value in meta['metrics'].items())
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB, {metrics or "no metrics found beside the checkpoint"}')


if __name__ == '__main__':
    main()
