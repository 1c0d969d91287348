"""The rooms of the package import one way, and a class name means one thing in all of it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'mmssmprune'
# Each room imports from itself and from those before it. Files beside the rooms belong to none, and import none, but
# for the door: `mmssmprune.create_backbone` and its like are in models.
ROOMS = ('ops', 'pruning', 'checkpoints', 'models', 'deployment', 'datasets', 'engine', 'analysis')
# The same for the folders of analysis. Of its files only the model zoo, which tabulates, imports from them.
ANALYSIS = ('cost', 'speed', 'token_pictures', 'comparison', 'plan_search', 'evidence')
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob('*.py'))}


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


def wrong_imports(file: Path, tree: ast.AST, rooms: tuple[str, ...] = ROOMS) -> set[tuple[str, str]]:
    """Of one file, which is named relative to the folder of the rooms: (file, room that it may not import)."""
    depth = 1 if rooms is ROOMS else 2
    own = 'models' if file == Path('__init__.py') else file.parts[depth - 1] if len(file.parts) >= depth else ''
    allowed = rooms[: rooms.index(own) + 1] if own in rooms else ()
    found = {tuple(module.split('.')[: depth + 1]) for module in imported(file, tree)}
    used = {
        parts[depth] for parts in found if parts[:depth] == ('mmssmprune', 'analysis')[:depth] and len(parts) > depth
    }
    return {(file.as_posix(), room) for room in used & set(rooms) - set(allowed)}


def test_no_import_runs_against_the_order_of_the_rooms():
    assert {wrong for file, tree in TREES.items() for wrong in wrong_imports(file, tree)} == set()


def test_no_import_runs_against_the_order_inside_analysis():
    of_analysis = {file: tree for file, tree in TREES.items() if file.parts[0] == 'analysis'}
    wrong = {wrong for file, tree in of_analysis.items() for wrong in wrong_imports(file, tree, ANALYSIS)}
    registers = {('analysis/__init__.py', 'token_pictures')}
    assert {(file, room) for file, room in wrong if file != 'analysis/model_zoo.py'} == registers


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
    assert twice == {}
