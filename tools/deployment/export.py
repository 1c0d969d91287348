"""Export a model to a file that runs elsewhere: ONNX of standard operators, or a torch.export program.

    python tools/deployment/export.py CONFIG --checkpoint FILE --format onnx --shape 512 512 --out x.onnx --verify
    python tools/deployment/export.py CONFIG --format torch --part model --shape 512 512 --dynamic hw --out x.pt2

What is exported takes images as the config's data_preprocessor leaves them; the file's metadata has its mean and std.
Without --checkpoint the weights are random, for a look at speed. docs/export.md tells which models go which way.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mmssmprune._command_line import add_model, make_parser, positive

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmssmprune.deployment.parts import ExportedPart

SUFFIXES = {'onnx': '.onnx', 'torch': '.pt2'}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_model(parser, checkpoint=False)
    parser.add_argument('--checkpoint', metavar='FILE', help='weights; without them they are random')
    parser.add_argument('--format', choices=SUFFIXES, required=True, help='kind of file')
    parser.add_argument(
        '--shape', type=positive, nargs=2, metavar=('H', 'W'), required=True, help='image size in pixels'
    )
    parser.add_argument(
        '--dynamic',
        choices=['batch', 'hw'],
        help='leave open the batch size, or that and the image size (default: none)',
    )
    parser.add_argument('--batch', type=positive, default=1, metavar='B', help='batch size, where fixed (default: 1)')
    parser.add_argument(
        '--part',
        choices=['backbone', 'model'],
        default='backbone',
        help="the backbone's maps, or the whole model up to its heads' raw outputs (default: %(default)s)",
    )
    parser.add_argument('--out', type=Path, metavar='FILE', required=True, help='file to write (.onnx or .pt2)')
    parser.add_argument('--force', action='store_true', help='replace an existing file')
    parser.add_argument('--verify', action='store_true', help='compare the file with the model on random images')
    parser.add_argument('--benchmark', action='store_true', help='time the file and the model in turns on this CPU')
    parser.add_argument('--runs', type=positive, default=10, help='timed runs of each (default: %(default)s)')
    args = parser.parse_args()
    if args.out.suffix != SUFFIXES[args.format]:
        parser.error(f'--out must end with {SUFFIXES[args.format]} for --format {args.format}, got {args.out}')
    return args


def main() -> None:
    """Build, export, compare, time."""
    args = parse_args()
    # Imported late: torch takes seconds, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        from mmssmprune.analysis.quiet import quiet
        from mmssmprune.checkpoints.writing import check_destination
        from mmssmprune.deployment.onnx_file import check_packages
        from mmssmprune.deployment.parts import ExportedPart
        from mmssmprune.engine.loading import build_model
        from mmssmprune.engine.runner_setup import load_config

        check_destination(args.config, args.out, force=args.force, doing='export')
        if args.format == 'onnx':
            check_packages()
        cfg = load_config(args.config, args.cfg_options)
        with quiet():
            part = ExportedPart(build_model(cfg, args.checkpoint, device='cpu'), args.part)
    with sentence_errors():
        write(part, args, metadata_of(cfg, args, part))
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB')
    if args.verify and not verified(part, args):
        sys.exit(1)
    if args.benchmark:
        benchmark(part, args)


def write(part: ExportedPart, args: argparse.Namespace, metadata: dict[str, Any]) -> None:
    """Trace the part and write it in the format asked for."""
    import torch

    from mmssmprune.deployment.onnx_file import save_onnx
    from mmssmprune.deployment.program import channels_of, export_program, save_program

    program = export_program(part, tuple(args.shape), args.dynamic, args.batch)
    with torch.no_grad():
        names = [name for name, _ in part.named_outputs(torch.rand(1, channels_of(part), *args.shape))]
    if args.format == 'onnx':
        save_onnx(program, args.out, names, {'mmssmprune': json.dumps({**metadata, 'outputs': names})})
    else:
        save_program(program, args.out, {**metadata, 'outputs': names})


def metadata_of(cfg: Config, args: argparse.Namespace, part: ExportedPart) -> dict[str, Any]:
    """What a user of the file has to know: where it came from, and how images become its input."""
    preprocessor = cfg.model.get('data_preprocessor') or {}
    known = {key: preprocessor.get(key) for key in ('mean', 'std', 'bgr_to_rgb', 'to_rgb') if key in preprocessor}
    pruning = dict(part.backbone.pruning or {}) or None
    about = {'config': args.config, 'part': args.part, 'shape': args.shape, 'dynamic': args.dynamic}
    return json.loads(json.dumps({**about, 'preprocessor': known, 'pruning': pruning}, default=str))


def verified(part: ExportedPart, args: argparse.Namespace) -> bool:
    """Print how far the file is from the model, and say whether rounding explains it."""
    from mmssmprune.deployment.checking import differences, load, sizes_to_check

    agrees = True
    for found in differences(part, load(args.out), sizes_to_check(tuple(args.shape), args.dynamic, args.batch)):
        batch, height, width = found.size
        line = f'{batch} x {height} x {width}: largest difference {found.largest:.1e} of values up to {found.scale:.1e}'
        print(line + (f', {100 * found.share:.2f} % of values are others' if found.share else ''))
        agrees = agrees and found.agrees
    print('The file agrees with the model.' if agrees else 'The file does not agree with the model.')
    return agrees


def benchmark(part: ExportedPart, args: argparse.Namespace) -> None:
    """Print the median times of the model and the file."""
    import torch

    from mmssmprune.analysis.latency import describe_device, measure_latency
    from mmssmprune.deployment.checking import load
    from mmssmprune.deployment.program import channels_of

    images = torch.randn(args.batch, channels_of(part), *args.shape)
    calls, cpu_ms = {'eager': part, args.format: load(args.out)}, {'eager': [], args.format: []}

    def call(name: str) -> None:
        start = time.process_time()
        calls[name](images)
        cpu_ms[name].append(1000 * (time.process_time() - start))

    times = measure_latency({name: partial(call, name) for name in calls}, 'cpu', args.runs, 1)
    device = describe_device('cpu')
    print(
        f'{args.batch} x {args.shape[0]} x {args.shape[1]}, {device["threads"]} threads of {device["name"]}; medians:'
    )
    for name, found in times.items():
        # On a busy machine the time of the processor says more than that of the clock.
        print(f'{name}: {found["median_ms"]:.1f} ms, of which the processor worked {median(cpu_ms[name]):.1f} ms')


if __name__ == '__main__':
    main()
