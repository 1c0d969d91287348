"""Every green cell of the table in docs/export.md: small models of each family, exported, read back and compared.

Tracing and translating costs seconds whatever the size of the model. The quick tests take of each family a pruned model
with everything left open, which needs all that the other cells need, and of one an ONNX file; the others are slow.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from mmssmprune.deployment.checking import differences, load, sizes_to_check
from mmssmprune.deployment.onnx_file import save_onnx
from mmssmprune.deployment.parts import ExportedPart
from mmssmprune.deployment.program import METADATA, export_program, save_program
from mmssmprune.models import PlainMamba, Vim, VMamba

REPO = Path(__file__).parents[2]
SHAPE = (64, 96)
MIXER = dict(d_state=3)
PLAIN = dict(embed_dims=8, num_layers=2, layers_with_dwconv=(0,), mixer_cfg=dict(MIXER, conv_size=3))
FAMILIES = {
    'PlainMamba': lambda pruning: PlainMamba(PLAIN, img_size=64, out_indices=(0, 1), pruning=pruning),
    'Vim': lambda pruning: Vim(
        dict(embed_dims=8, num_layers=2, mixer_cfg=MIXER), img_size=64, out_indices=(0, 1), pruning=pruning
    ),
    # The second stage begins pruned, and prunes again.
    'VMamba': lambda pruning: VMamba(
        dict(embed_dims=8, depths=(1, 2)),
        out_indices=(0, 1),
        pruning=pruning and dict(pruning, layers=[0, 1]),
    ),
}
PRUNED = dict(layers=[0], keep_ratio=0.6)
MODELS = {
    'dense': None,
    'pruned': dict(PRUNED, reduction='prune', importance='clip'),
    'merge': dict(PRUNED, reduction='merge'),
    'near': dict(PRUNED, reduction='merge_neighbours'),
}
QUICK = ('pruned', 'hw')
QUICK_ONNX = 'VMamba'  # has all that the other families have


@pytest.fixture(autouse=True, scope='module')
def _without_traces() -> Iterator[None]:
    """Under pytest torch writes a log of every symbolic size, which takes as long as the tracing itself."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@cache
def part_of(family: str, pruning: str) -> ExportedPart:
    torch.manual_seed(0)
    model = FAMILIES[family](MODELS[pruning])
    for name, parameter in model.named_parameters():  # large enough for every part to matter
        if parameter.dim() > 1 and 'A_' not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return ExportedPart(model)


@cache
def program_of(family: str, pruning: str, dynamic: str | None) -> torch.export.ExportedProgram:
    return export_program(part_of(family, pruning), SHAPE, dynamic)


def cells(quick: Sequence[str] = tuple(FAMILIES)) -> list:
    """Family, model and what is open; slow but for one cell of the families ``quick``."""
    found = []
    for family, pruning, dynamic in product(FAMILIES, MODELS, (None, 'batch', 'hw')):
        marks = [] if (pruning, dynamic) == QUICK and family in quick else [pytest.mark.slow]
        if dynamic != 'hw' or pruning in ('dense', 'pruned'):  # others are refused: see test_parts.py
            found.append(pytest.param(family, pruning, dynamic, marks=marks, id=f'{family}-{pruning}-{dynamic}'))
    return found


def largest(part: ExportedPart, path: Path, dynamic: str | None) -> float:
    """The largest difference as a share of the largest value."""
    return max(found.largest / found.scale for found in differences(part, load(path), sizes_to_check(SHAPE, dynamic)))


# 5 s each.
@pytest.mark.parametrize(('family', 'pruning', 'dynamic'), cells())
def test_a_program_gives_the_bits_of_its_model(family: str, pruning: str, dynamic: str | None, tmp_path: Path):
    save_program(program_of(family, pruning, dynamic), tmp_path / 'model.pt2', {})
    assert largest(part_of(family, pruning), tmp_path / 'model.pt2', dynamic) == 0


# 15 s each.
@pytest.mark.parametrize(('family', 'pruning', 'dynamic'), cells([QUICK_ONNX]))
def test_an_onnx_file_computes_what_its_model_does(family: str, pruning: str, dynamic: str | None, tmp_path: Path):
    pytest.importorskip('onnxruntime')
    part = part_of(family, pruning)
    save_onnx(program_of(family, pruning, dynamic), tmp_path / 'model.onnx', ['first', 'second'], {})
    assert largest(part, tmp_path / 'model.onnx', dynamic) < 1e-4


LOADS = """
import sys, torch
import mmssmprune.ops
images, *wanted = torch.load('tensors.pt')
got = torch.export.load('model.pt2').module()(images)
assert all(torch.equal(g, w) for g, w in zip(got, wanted, strict=True))
assert not {'mmengine', 'mmcv', 'mmssmprune.models'} & sys.modules.keys()
"""


# 5 s: a process that imports torch.
def test_a_program_runs_where_only_the_operators_are(tmp_path: Path):
    part, images = part_of('VMamba', QUICK[0]), torch.rand(3, 3, 64, 64)
    save_program(program_of('VMamba', *QUICK), tmp_path / 'model.pt2', {})
    with torch.no_grad():
        torch.save([images, *part(images)], tmp_path / 'tensors.pt')
    subprocess.run([sys.executable, '-c', LOADS], cwd=tmp_path, check=True, env={**os.environ, 'PYTHONPATH': str(REPO)})


def test_metadata_is_in_the_file_of_a_program(tmp_path: Path):
    save_program(program_of('VMamba', *QUICK), tmp_path / 'model.pt2', {'mean': [1.5]})
    found = {METADATA: ''}
    torch.export.load(tmp_path / 'model.pt2', extra_files=found)
    assert json.loads(found[METADATA]) == {'mean': [1.5]}
