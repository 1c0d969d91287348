"""tools/deployment/export.py: what it refuses before it starts, and what it writes and says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import REPO

CONFIG = REPO / 'configs/vmamba/vmamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py'
TWO_STAGES = REPO / 'configs/vmamba/vmamba-mini_mask-rcnn_1xb8-300i_mini-coco-128x128.py'


# 10 s: a detector of two stages is built and traced.
def test_a_detector_is_written_with_its_metadata(
    tool: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / 'model.pt2'
    arguments = ('--format', 'torch', '--part', 'model', '--shape', '64', '96', '--verify', '--benchmark', '--runs', 1)
    assert tool('deployment/export.py', TWO_STAGES, *arguments, '--out', out) == 0
    said = capsys.readouterr().out
    assert '1 x 64 x 96: largest difference 0.0e+00' in said
    assert 'The file agrees with the model.' in said
    assert re.search(r'^eager: [\d.]+ ms', said, re.M)
    assert re.search(r'^torch: [\d.]+ ms', said, re.M)
    found = {'mmssmprune.json': ''}
    program = torch.export.load(out, extra_files=found)
    metadata = json.loads(found['mmssmprune.json'])
    assert metadata['preprocessor']['bgr_to_rgb'] is True
    assert metadata['pruning'] is None
    assert {name.rpartition('_')[0] for name in metadata['outputs']} == {'feature', 'rpn_cls_score', 'rpn_bbox_pred'}
    assert len(program.module()(torch.rand(1, 3, 64, 96))) == len(metadata['outputs'])
    assert [path.name for path in tmp_path.iterdir()] == ['model.pt2']


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (('--out', 'model.pth'), '--out must end with .pt2 for --format torch'),
        (('--out', 'there.pt2'), 'there.pt2 exists; give another name, or --force'),
        (('--out', 'model.pt2', '--batch', '0'), 'expected a whole number above 0'),
        (
            ('--out', 'model.pt2', '--cfg-options', 'model.backbone.pruning.importance=random'),
            "pruning.importance 'random' cannot be exported",
        ),
        (('--out', 'model.pt2', '--shape', '0', '64'), 'expected a whole number above 0'),
        (('--out', 'model.pt2', '--checkpoint', 'none.pth'), 'none.pth'),
    ],
)
def test_bad_input_gets_a_sentence_and_no_file(
    arguments: tuple, sentence: str, tool: Callable[..., int], tmp_path: Path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    Path('there.pt2').write_text('something else')
    assert tool('deployment/export.py', CONFIG, '--format', 'torch', '--shape', '64', '64', *arguments) == 2
    assert sentence in ' '.join(capfd.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ['there.pt2']
