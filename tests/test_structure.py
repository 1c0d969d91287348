"""The rooms of the package import one way, and a class name means one thing in all of it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'mmssmprune'
# Each room imports from itself and from those before it. Files beside the rooms belong to none, and import none.
ROOMS = ('ops', 'pruning', 'checkpoints', 'models', 'datasets', 'engine', 'analysis')
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob('*.py'))}
# Still twice; a name goes from this list with its second class.
KNOWN_CLASSES = {'Panel', 'Places', 'Walk', '_View'}


def imported(file: Path, tree: ast.AST) -> Iterator[str]:
    """Full names of what a file imports, inside functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = ('mmssmprune', *file.parent.parts)
            base = '.'.join(folder[: len(folder) - node.level + 1]) if node.level else ''
            module = '.'.join(filter(None, (base, node.module)))
            yield from (f'{module}.{name.name}' for name in node.names)


def room_of(module: str) -> str | None:
    parts = module.split('.')
    return parts[1] if parts[0] == 'mmssmprune' and len(parts) > 1 and parts[1] in ROOMS else None


def wrong_imports(file: Path, tree: ast.AST) -> set[tuple[str, str]]:
    own = ROOMS.index(file.parts[0]) if file.parts[0] in ROOMS else -1
    rooms = {room for module in imported(file, tree) if (room := room_of(module))}
    return {(file.as_posix(), room) for room in rooms if ROOMS.index(room) > own}


def test_no_import_runs_against_the_order_of_the_rooms():
    assert {wrong for file, tree in TREES.items() for wrong in wrong_imports(file, tree)} == set()


@pytest.mark.parametrize(
    ('file', 'source', 'rooms'),
    [
        ('engine/runner.py', 'from mmssmprune.analysis.quiet import quiet', {'analysis'}),
        ('engine/runner.py', 'def f():\n    from ..analysis import quiet', {'analysis'}),
        ('engine/official/files.py', 'from ... import analysis', {'analysis'}),
        ('ops/scan.py', 'import mmssmprune.pruning.plan, torch', {'pruning'}),
        ('_values.py', 'from mmssmprune import ops', {'ops'}),
        (
            'engine/runner.py',
            'from mmssmprune.models import x\nfrom .hooks import y\nimport mmdet',
            set(),
        ),
    ],
)
def test_every_form_of_import_is_seen(file: str, source: str, rooms: set[str]):
    assert {room for _, room in wrong_imports(Path(file), ast.parse(source))} == rooms


def test_no_class_name_stands_for_two_things():
    files = defaultdict(list)
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                files[node.name].append(file.as_posix())
    twice = {name: places for name, places in files.items() if len(places) > 1}
    assert {name: places for name, places in twice.items() if name not in KNOWN_CLASSES} == {}
