"""Options that the benchmark scripts have in common, and their errors in one sentence."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mmssmprune import _command_line
from mmssmprune.analysis.results import check_output_file

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser that describes itself by a script's docstring and has the common options."""
    parser = _command_line.make_parser(doc)
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: cuda where there is one)')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of activations (default: %(default)s)')
    parser.add_argument('--tf32', action='store_true', help='let matrix products and convolutions use TF32 on a GPU')
    parser.add_argument('--threads', type=_command_line.positive, help='CPU threads (default: as torch chooses)')
    parser.add_argument(
        '--runs',
        type=_command_line.positive,
        help='timed runs of each contestant (default: 3 on a CPU or less, 20 on a GPU)',
    )
    parser.add_argument(
        '--warmup',
        type=_command_line.non_negative,
        help='untimed runs before them, after the first (default: 0 on a CPU, 3 on a GPU)',
    )
    parser.add_argument('--quick', action='store_true', help='fewer and smaller cases')
    parser.add_argument('--no-memory', action='store_true', help='leave peak memory out')
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the report there as well')
    parser.add_argument('--json', type=Path, metavar='FILE.json', help='write every number there')
    return parser


def settle(parser: argparse.ArgumentParser, cpu_runs: int = 3) -> argparse.Namespace:
    """Parse, fill in the defaults of the common options and make torch follow them."""
    args = parser.parse_args()
    for option, path in (('--out', args.out), ('--json', args.json)):
        with refusing(parser):
            if path:
                check_output_file(path, option)
    args.device = _device(parser, args.device)
    on_cpu = args.device.type == 'cpu'
    args.runs = args.runs or (cpu_runs if on_cpu else 20)
    args.warmup = (0 if on_cpu else 3) if args.warmup is None else args.warmup
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    return args


def _device(parser: argparse.ArgumentParser, name: str | None) -> torch.device:
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if not re.fullmatch(r'cpu|cuda(:\d+)?', name):
        parser.error(f'--device takes cpu, cuda or cuda:N, got {name!r}')
    device = torch.device(name)
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        parser.error(f'--device {name}: torch sees {torch.cuda.device_count()} GPUs here')
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    return device


@contextmanager
def refusing(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End with one sentence where what the user asked for cannot be built."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        parser.error(' '.join(str(error).split()))
