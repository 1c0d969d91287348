"""The Markdown pages of the project, and what is in them."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PLACES = ('README.md', 'CONTRIBUTING.md', 'docs/**/*.md', 'configs/*/README.md')
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)


def pages() -> list[Path]:
    """All of them, the tables under docs/ included."""
    return sorted(path for pattern in PLACES for path in REPO.glob(pattern))


def code_blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [code for name, code in FENCE.findall(text) if name == language]


def named_blocks(page: Path) -> dict[str, str]:
    """The Python blocks whose first line is a comment with a file name, by that name."""
    blocks = {}
    for code in code_blocks(page.read_text(), 'python'):
        name = re.match(r'# (\S+\.py)\n', code)
        if name:
            blocks[name[1]] = code
    return blocks


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub('', text)
