"""HTML pages that are one file: styles and pictures inside, all text escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from mmssmprune.analysis.escape import escape_html

_STYLE = """
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #1a1a1a; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; font-size: 0.9rem; }
caption { text-align: left; font-weight: bold; padding: 0.3rem 0; }
th, td { border-bottom: 1px solid #d5d5d5; padding: 0.25rem 0.8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
td { overflow-wrap: anywhere; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document; ``parts`` are HTML, made by the functions below."""
    head = f'<meta charset="utf-8">\n<title>{escape_html(title)}</title>\n<style>{_STYLE}</style>'
    body = '\n'.join([f'<h1>{escape_html(title)}</h1>', *parts])
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def heading(text: str) -> str:
    """A heading of the second level."""
    return f'<h2>{escape_html(text)}</h2>'


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f'<p>{escape_html(text)}</p>'


def picture(png: bytes, text: str) -> str:
    """A PNG file inside the page; ``text`` says what it shows."""
    data = base64.b64encode(png).decode('ascii')
    return f'<img alt="{escape_html(text)}" src="data:image/png;base64,{data}">'


def table(caption: str, columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; without ``columns`` it has no head."""
    head = f'<thead>{_row("th", columns)}</thead>' if columns else ''
    body = ''.join(_row('td', row) for row in rows)
    return f'<table><caption>{escape_html(caption)}</caption>{head}<tbody>{body}</tbody></table>'


def _row(tag: str, cells: Sequence[object]) -> str:
    return '<tr>' + ''.join(f'<{tag}>{escape_html(cell)}</{tag}>' for cell in cells) + '</tr>'
