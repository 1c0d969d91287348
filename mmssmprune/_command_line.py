"""What the command lines of the tools have in common. Neither torch nor mmengine is imported before a line is parsed.

A tool imports what it needs of the rooms after parsing, because torch and the suites take seconds: ``--help`` and a
typing mistake should show at once.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

NOT_A_TERMINAL_WIDTH = 120


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser that describes itself by a script's docstring: its first line before the options, the rest after."""
    summary, _, details = doc.partition('\n')
    return argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_model(parser: argparse.ArgumentParser, checkpoint: bool = True) -> None:
    """``CONFIG``, ``CHECKPOINT`` unless without one, and ``--cfg-options``."""
    parser.add_argument('config', help='config file')
    if checkpoint:
        parser.add_argument('checkpoint', help='checkpoint file')
    add_cfg_options(parser)


def add_cfg_options(parser: argparse.ArgumentParser, what: str = 'override settings of the config') -> None:
    """``--cfg-options KEY=VALUE ...``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptionsAction,
        metavar='KEY=VALUE',
        help=f'{what}: a.b=1, a.list="[1,2]"; no blanks inside a value',
    )


def add_run(parser: argparse.ArgumentParser, what: str) -> None:
    """``--work-dir``, which gets ``what``, ``--launcher``, and the rank that older launchers pass on."""
    parser.add_argument('--work-dir', help=f'folder for {what} (default: work_dirs/<config name>)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')


def add_shape(parser: argparse.ArgumentParser, default: str, what: str = 'image size in pixels') -> None:
    """``--shape H W``; ``default`` says in words what holds without it."""
    parser.add_argument('--shape', type=positive, nargs=2, metavar=('H', 'W'), help=f'{what} (default: {default})')


class CfgOptionsAction(argparse.Action):
    """mmengine's ``DictAction``, which ends what it cannot parse with the usage instead of a traceback."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Add ``KEY=VALUE`` pairs to the dict under ``dest``."""
        wrong = [pair for pair in values if '=' not in pair or pair.startswith('=')]
        if wrong:
            parser.error(f'--cfg-options takes KEY=VALUE without blanks, got {wrong[0]!r}')
        try:
            from mmengine.config import DictAction

            DictAction(self.option_strings, self.dest)(parser, namespace, values, option)
        except Exception as error:
            parser.error(f'--cfg-options: {error}')


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'expected a whole number above 0, got {text}')
    return int(text)


def non_negative(text: str) -> int:
    """An argparse type: a whole number, 0 included."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'expected a whole number, got {text}')
    return int(text)


def keep_ratio(text: str) -> float:
    """An argparse type: a number in (0, 1]."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio <= 1:
        raise argparse.ArgumentTypeError(f'a keep ratio is a number above 0 and at most 1, got {text}')
    return ratio


def image_size(text: str) -> tuple[int, int]:
    """An argparse type: '512x2048' -> (512, 2048)."""
    match = re.fullmatch(r'0*([1-9]\d*)x0*([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write height x width in pixels, as 512x2048')
    return int(match[1]), int(match[2])


def command_line() -> str:
    """The command as a reader can repeat it."""
    script = os.path.relpath(sys.argv[0])
    return shlex.join(['python', script, *sys.argv[1:]])


def make_console() -> Console:
    """Of rich, on stdout, as wide as the terminal; what is no terminal (a log file) is 120 columns wide."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = NOT_A_TERMINAL_WIDTH
    return console
