"""tools/analysis_tools/get_flops.py as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Tool = Callable[..., int]
TOOL = 'analysis_tools/get_flops.py'
CONFIGS = Path(__file__).resolve().parents[2] / 'configs/plain_mamba'
DENSE = CONFIGS / 'plain-mamba-mini_mask-rcnn_1xb8-300i_mini-coco-128x128.py'
PRUNED = CONFIGS / 'plain-mamba-mini-top70_mask-rcnn_1xb8-300i_mini-coco-128x128.py'


def test_parts_layers_plan_and_what_is_not_counted(tool: Tool, tmp_path: Path, capsys):
    out = tmp_path / 'flops.json'
    assert tool(TOOL, PRUNED, '--shape', 100, 160, '--json', out) == 0
    printed = capsys.readouterr().out
    cost = json.loads(out.read_text())
    assert cost['padded_shape'] == [128, 160]
    for name in ('macs', 'field', 'two-per-mac'):
        flops = cost['flops'][name]
        assert flops['total'] == flops['backbone'] + flops['neck'] + flops['heads'] > 0
    assert [layer['tokens'] for layer in cost['layers']] == [320, 320, 224, 224, 157, 157, 110, 110]
    layers = [layer['flops']['field'] for layer in cost['layers']]
    assert layers[7] < layers[1] < cost['flops']['field']['backbone']
    assert cost['plan']['layers'] == [1, 3, 5]
    dense_out = tmp_path / 'dense.json'
    assert tool(TOOL, DENSE, '--shape', 100, 160, '--json', dense_out) == 0
    assert cost['dense_flops']['field'] == json.loads(dense_out.read_text())['flops']['field']
    for text in ('Plan: keep 0.7 after layer 1', 'mmcv.roi_align_forward', 'padded to 128 x 160', '60 proposals'):
        assert text in printed


def test_all_conventions_are_those_that_fit(tool: Tool, capsys):
    assert tool(TOOL, DENSE, '--convention', 'all', '--shape', 64, 64) == 0
    printed = capsys.readouterr().out
    assert 'plain-mamba' in printed
    assert 'vmamba' not in printed
    assert tool(TOOL, '--list-conventions') == 0
    printed = capsys.readouterr().out
    assert 'local-mamba' in printed
    assert 'both-directions-3' in printed


@pytest.mark.parametrize(
    ('args', 'sentence'),
    [
        ((DENSE, '--convention', 'vmamba'), 'the convention vmamba is for Vim'),
        ((DENSE, '--convention', 'gflops'), "convention is 'gflops'; the names are"),
        ((DENSE, '--shape', '0', '4'), '--shape takes two whole numbers above 0, got 0 4'),
        (('nothing.py',), 'config nothing.py does not exist'),
        ((), 'give a config file, or --list-conventions'),
    ],
)
def test_bad_input_is_one_sentence(args, sentence: str, tool: Tool, capsys):
    assert tool(TOOL, *args) == 2
    assert sentence in capsys.readouterr().err
