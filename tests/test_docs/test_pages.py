"""What the pages name exists: links, anchors, files, make targets; and every command is one that its tool accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import COMMAND, commands, options_of, python_tools, try_command
from pages import REPO, code_blocks, pages, prose

PAGES = pages()
LINK = re.compile(r'(?<!\\)\[[^\]]*\]\(([^)\s]+)\)')
IMAGE_SOURCE = re.compile(r'<(?:img|a) [^>]*?(?:src|href)="([^"]+)"')
OPTION = re.compile(r'(?<![\w-])--[a-z][a-z-]*\b')
# A path of ours, not followed by what makes it a pattern or a placeholder.
PATH = re.compile(r'(?<![\w./-])((?:tools|configs|tests|mmssmprune|requirements)/[\w./-]*\w)(?![\w<*{])')
# Options of other programs, where a page is about those.
FOREIGN_OPTIONS = {'--no-build-isolation', '--index-url', '--standalone', '--check'}
each_page = pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(REPO)))


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    heading = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).strip().lower()
    return re.sub(r'[^\w\- ]', '', heading).replace(' ', '-')


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r'^#+ (.*)$', prose(page.read_text()), re.M)}


@each_page
def test_links_lead_somewhere(page: Path):
    text = prose(page.read_text())
    broken = []
    for target in [*LINK.findall(text), *IMAGE_SOURCE.findall(text)]:
        if re.match(r'\w+:', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == '.md' and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@each_page
def test_paths_exist(page: Path):
    text = page.read_text()
    named = {path for path in PATH.findall(text) if not re.search(r'[A-Z]{3,}', path.rpartition('/')[2])}
    missing = [path for path in named if not (REPO / path).exists() and not list(REPO.glob(f'{path}*'))]
    assert missing == []


@each_page
def test_commands_are_accepted_by_their_tools(page: Path):
    text = page.read_text()
    found = [line for language in ('bash', '', 'sh') for code in code_blocks(text, language) for line in commands(code)]
    found += [code for code in re.findall(r'`([^`\n]+)`', prose(text)) if COMMAND.match(code)]
    for command in found:
        if '...' not in command and '[' not in command:
            try_command(command)


@each_page
def test_options_in_the_text_exist(page: Path):
    """An option beside the name of a tool is one of that tool's; elsewhere it is one of any tool's."""
    every = set().union(*map(options_of, python_tools())) | FOREIGN_OPTIONS
    for line in prose(page.read_text()).splitlines():
        for code in re.findall(r'`([^`]+)`', line):
            unknown = [option for option in OPTION.findall(code) if option not in every]
            assert unknown == [], line


@each_page
def test_make_targets_exist(page: Path):
    targets = set(re.findall(r'^([a-z-]+):', (REPO / 'Makefile').read_text(), re.M))
    named = re.findall(r'(?:`|^)make ([a-z-]+)', page.read_text(), re.M)
    assert set(named) <= targets


@each_page
def test_python_blocks_are_python(page: Path):
    for code in code_blocks(page.read_text(), 'python'):
        compile(code, str(page), 'exec')


def test_the_index_lists_every_page():
    index = REPO / 'docs/README.md'
    listed = {(index.parent / target.partition('#')[0]).resolve() for target in LINK.findall(index.read_text())}
    own = {page for page in (REPO / 'docs').glob('*.md') if page != index}
    assert own <= listed
