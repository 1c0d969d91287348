"""Text of users and of files from elsewhere, written so that no format reads a command in it."""

from __future__ import annotations

import html
import re
from typing import Any

# Line ends, control characters, marks that turn the direction of writing, halves of a character.
_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
# A bar or backslash would break a table's cell; the others start HTML, code, links, emphasis or mathematics.
_MARKDOWN = re.compile(r'[\\`|*$]|(?<=\])\(|(?<![^\W_])_|_(?![^\W_])|^[#>]')
_ENTITY = re.compile(r'&(?=#?\w+;)')
_FORMULA = re.compile('\\s*[=+@\uff1d\uff0b\uff0d\uff20-]')
_LATEX = {
    '\\': r'\textbackslash{}',
    '{': r'\{',
    '}': r'\}',
    '$': r'\$',
    '&': r'\&',
    '#': r'\#',
    '_': r'\_',
    '%': r'\%',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    'Δ': r'$\Delta$',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
}
_LATEX_PATTERN = re.compile('|'.join(map(re.escape, _LATEX)))


def one_line(text: object) -> str:
    """As one line of what can be printed; a space stands for everything else."""
    return _UNPRINTABLE.sub(' ', str(text))


def escape_html(text: object) -> str:
    """For HTML, attributes in quotes included."""
    return html.escape(one_line(text))


def escape_markdown(text: object) -> str:
    """For a line, or a table's cell, of Markdown; a ``_`` inside a word means nothing there and stays as it is."""
    shown = _ENTITY.sub('&amp;', _MARKDOWN.sub(r'\\\g<0>', one_line(text)))
    return shown.replace('<', '&lt;')


def markdown_code(text: object) -> str:
    """As code in a line of Markdown."""
    shown = one_line(text)
    fence = '`' * (max(map(len, re.findall('`+', shown)), default=0) + 1)
    pad = ' ' if '`' in shown else ''
    return f'{fence}{pad}{shown}{pad}{fence}'


def escape_latex(text: object) -> str:
    """For LaTeX, which prints it as it is; only ``Δ`` becomes mathematics."""
    return _LATEX_PATTERN.sub(lambda found: _LATEX[found[0]], one_line(text))


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file: a text that a spreadsheet would compute gets a ``'`` in front; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    shown = one_line(value)
    return f"'{shown}" if _FORMULA.match(shown) else shown


def csv_text(cell: str) -> str:
    """The text that `csv_cell` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell
