"""What the tools' command lines share: the types of numbers, and that help and typing mistakes show without torch."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
from tiny_runs import REPO, tool_environment

from mmssmprune._command_line import add_model, image_size, keep_ratio, make_parser, non_negative, positive

# Every tool with a command line, but for those that measure for minutes and take their choices from what they measure.
TOOLS = sorted(
    str(path.relative_to(REPO))
    for path in (REPO / 'tools').rglob('*.py')
    if 'make_parser(__doc__)' in path.read_text() and path.parent.name != 'benchmarks'
)
HELP_WITHOUT_TORCH = """
import runpy, sys
sys.modules |= dict.fromkeys(('torch', 'mmengine', 'mmcv'))  # whose import fails now
for tool in sys.argv[1:]:
    sys.argv = [tool, '--help']
    try:
        runpy.run_path(tool, run_name='__main__')
    except SystemExit as end:
        assert end.code == 0
"""


def test_help_needs_no_torch():
    command = [sys.executable, '-c', HELP_WITHOUT_TORCH, *TOOLS]
    done = subprocess.run(command, cwd=REPO, env=tool_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('usage: ') == len(TOOLS) > 8


@pytest.mark.parametrize(
    ('kind', 'good', 'bad'),
    [
        (positive, {'1': 1, '20': 20}, ['0', '-1', '1.5', 'x', '', '²']),
        (non_negative, {'0': 0, '3': 3}, ['-1', '1.5', 'x', '']),
        (keep_ratio, {'1': 1.0, '0.5': 0.5, '1e-3': 0.001}, ['0', '-1', '1.01', 'nan', 'inf', 'x', '']),
        (image_size, {'512x2048': (512, 2048), '007x8': (7, 8)}, ['512', '0x8', '8x00', 'ax8', '-1x8', '8x8x8', '']),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_types_of_numbers(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r'number|size'):
            kind(text)


def test_a_parser_tells_what_the_script_does(capsys):
    parser = make_parser('Do this.\n\n    python tools/this.py --that\n')
    add_model(parser)
    told = parser.format_help()
    assert told.index('Do this.') < told.index('checkpoint file') < told.index('    python tools/this.py --that')
    args = parser.parse_args(['a.py', 'a.pth', '--cfg-options', 'a.b=[1,2]', 'c=x'])
    assert (args.config, args.checkpoint, args.cfg_options) == ('a.py', 'a.pth', {'a.b': [1, 2], 'c': 'x'})
    with pytest.raises(SystemExit):
        parser.parse_args(['a.py', 'a.pth', '--cfg-options', 'a.b'])
    assert "--cfg-options takes KEY=VALUE without blanks, got 'a.b'" in capsys.readouterr().err
