"""Commands on the pages, and the tools' own parsers to try them on."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from functools import cache

import pytest
from pages import REPO

# Launcher scripts: how many of their arguments are their own, which of those the tool gets, and which tool it is.
SCRIPTS = {
    'dist_train.sh': ('train.py', 2, (0,)),
    'dist_test.sh': ('test.py', 3, (0, 1)),
    'slurm_train.sh': ('train.py', 3, (2,)),
    'slurm_test.sh': ('test.py', 4, (2, 3)),
}
COMMAND = re.compile(r'^(?:\w+=\S* )*(?:python|bash) (tools/\S+\.(?:py|sh))(.*)$')


class _Parsed(Exception):
    """Stops a tool at the moment it parses its arguments."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.parser = parser


@cache
def parser_of(tool: str) -> argparse.ArgumentParser:
    """The parser that a Python tool (`tools/...py`) makes when it is started."""

    def stop(self: argparse.ArgumentParser, *_: object) -> None:
        raise _Parsed(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [tool])
        patch.setattr(argparse.ArgumentParser, 'parse_known_args', stop)
        try:
            runpy.run_path(str(REPO / tool), run_name='__main__')
        except _Parsed as parsed:
            return parsed.parser
    raise AssertionError(f'{tool} ended without parsing its arguments')


def options_of(tool: str) -> set[str]:
    """Its options, both spellings."""
    return set(parser_of(tool)._option_string_actions)


def python_tools() -> list[str]:
    """Every Python tool that has a command line."""
    tools = (path for path in (REPO / 'tools').rglob('*.py') if 'parse_args()' in path.read_text())
    return sorted(str(path.relative_to(REPO)) for path in tools)


def commands(code: str) -> list[str]:
    """The commands of a bash block that start one of our tools, one a line; `A && B` are two."""
    lines = code.replace('\\\n', ' ').splitlines()
    parts = (part.split(' #')[0].strip() for line in lines for part in re.split(r'&&|\||;', line))
    return [part for part in parts if COMMAND.match(part)]


def try_command(command: str) -> None:
    """Let the tool's parser read a command; fails with what it says against it."""
    tool, rest = COMMAND.match(command).groups()
    # <config> and the like are words to a reader, but redirections to a shell.
    arguments = shlex.split(re.sub(r'<[^>]*>', 'PLACEHOLDER', rest))
    name = tool.rpartition('/')[2]
    if name in SCRIPTS:
        python, own, passed = SCRIPTS[name]
        assert len(arguments) >= own, f'{command}: {name} needs {own} arguments'
        arguments = [*(arguments[i] for i in passed), *arguments[own:]]
        tool = f'tools/{python}'
    elif tool.endswith('.sh'):
        return
    try:
        parser_of(tool).parse_args(arguments)
    except SystemExit as end:
        raise AssertionError(f'{command}: refused by {tool}') from end
