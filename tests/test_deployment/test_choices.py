"""Every choice of a `pruning` dict but `random` goes into both kinds of files; several at a time, for files cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_backbones import MAKERS, make

from mmssmprune.deployment.checking import differences, load
from mmssmprune.deployment.onnx_file import save_onnx
from mmssmprune.deployment.parts import ExportedPart
from mmssmprune.deployment.program import export_program, save_program
from mmssmprune.pruning.pruner import CHOICES

CASES = {
    'held': (
        'plain_mamba',
        dict(restoration='hold', conv_fill='zero', scan_fill='neighbours', alignment='bias', importance='l2'),
    ),
    'evit': ('vim_cls', dict(reduction='evit', alignment='none', importance='l1')),
    'merged': ('vmamba', dict(reduction='merge')),
    'reopened': ('plain_mamba', dict(regime='per_output', restoration='interpolate', importance='grid')),
    'nearest': ('vim_cls', dict(restoration='nearest', importance='cls_similarity')),
    'learned': ('vim_double', dict(restoration='mask_token', importance='delta')),
    'drifting': ('vmamba', dict(restoration='drift', importance='sum')),
    'compact': ('vim_cls', dict(conv_fill='compact', alignment='none', importance='released')),
    'folded': ('vmamba', dict(reduction='prune_merge', importance='l2', conv_fill='leader', scan_fill='leader')),
    'features': ('plain_mamba', dict(reduction='merge_features')),
    'neighbours': ('vim_seg', dict(reduction='merge_neighbours')),
    'units': ('plain_mamba', dict(unit=(2, 2))),
    'flow': ('vim_cls', dict(restoration='flow', reduction='prune', importance='clip')),
    'zero': ('plain_mamba', dict(restoration='zero', importance='clip')),
    'follow': (
        'vim_seg',
        dict(restoration='follow', alignment='carry', conv_fill='zero', scan_fill='zero', reduction='prune'),
    ),
}
QUICK = 'held'
SIZE = (1, 64, 64)


@pytest.fixture(autouse=True, scope='module')
def _without_traces() -> Iterator[None]:
    """Under pytest torch writes a log of every symbolic size, which takes as long as the tracing itself."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def test_no_choice_is_left_out():
    tried = {(kind, name) for _, pruning in CASES.values() for kind, name in pruning.items() if kind in CHOICES}
    known = {(kind, name) for kind, names in CHOICES.items() for name in names}
    assert {kind for kind, _ in known - tried} <= {'importance', 'regime'}
    assert known - tried == {('importance', 'random'), ('regime', 'progressive')}
    assert {kind for kind, _ in CASES.values()} <= MAKERS.keys()


# 10 s each: a model is traced and translated.
@pytest.mark.parametrize(
    'case', [pytest.param(name, marks=[] if name == QUICK else [pytest.mark.slow]) for name in CASES]
)
def test_a_choice_goes_into_both_kinds_of_files(case: str, tmp_path: Path):
    pytest.importorskip('onnxruntime')
    kind, pruning = CASES[case]
    part = ExportedPart(make(kind, pruning=dict(pruning, layers=[0, 2], keep_ratio=0.6)))
    program = export_program(part, SIZE[1:])
    names = [f'feature_{i}' for i in range(4)]
    save_onnx(program, tmp_path / 'model.onnx', names, {})
    save_program(program, tmp_path / 'model.pt2', {})
    (by_torch,) = differences(part, load(tmp_path / 'model.pt2'), [SIZE])
    (by_onnx,) = differences(part, load(tmp_path / 'model.onnx'), [SIZE])
    assert by_torch.largest == 0
    assert by_onnx.largest < 1e-3 * by_onnx.scale
