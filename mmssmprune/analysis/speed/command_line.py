"""Options that the benchmark scripts have in common, and their errors in one sentence."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser that describes itself by a module's docstring and has the common options."""
    summary, _, details = doc.partition('\n')
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: cuda where there is one)')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of activations (default: %(default)s)')
    parser.add_argument('--tf32', action='store_true', help='let matrix products and convolutions use TF32 on a GPU')
    parser.add_argument('--threads', type=int, help='CPU threads (default: as torch chooses)')
    parser.add_argument(
        '--runs', type=int, help='timed runs of each contestant (default: 3 on a CPU or less, 20 on a GPU)'
    )
    parser.add_argument(
        '--warmup', type=int, help='untimed runs before them, after the first (default: 0 on a CPU, 3 on a GPU)'
    )
    parser.add_argument('--quick', action='store_true', help='fewer and smaller cases')
    parser.add_argument('--no-memory', action='store_true', help='leave peak memory out')
    parser.add_argument('--peak-of', type=json.loads, metavar='CASE', help=argparse.SUPPRESS)
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the report there as well')
    parser.add_argument('--json', type=Path, metavar='FILE.json', help='write every number there')
    return parser


def settle(parser: argparse.ArgumentParser, args: argparse.Namespace, cpu_runs: int = 3) -> argparse.Namespace:
    """Check the common options, fill in their defaults and make torch follow them."""
    args.device = _device(parser, args.device)
    on_cpu = args.device.type == 'cpu'
    args.runs = (cpu_runs if on_cpu else 20) if args.runs is None else args.runs
    args.warmup = (0 if on_cpu else 3) if args.warmup is None else args.warmup
    for name, smallest in (('threads', 1), ('runs', 1), ('warmup', 0)):
        value = getattr(args, name)
        if value is not None and value < smallest:
            parser.error(f'--{name} takes a whole number from {smallest} on, got {value}')
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


def size(text: str) -> tuple[int, int]:
    """An argparse type: '512x2048' -> (512, 2048)."""
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if not match or '0' in match.groups():
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write height x width in pixels, as 512x2048')
    return int(match[1]), int(match[2])


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
    return int(text)


def ratio(text: str) -> float:
    """An argparse type: a keep ratio in (0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no keep ratio, which is above 0 and at most 1')
    return value


@contextmanager
def refusing(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End with one sentence where what the user asked for cannot be built."""
    try:
        yield
    except ValueError as error:
        parser.error(' '.join(str(error).split()))
