"""tools/analysis_tools/get_flops.py as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mmdet
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
        ((DENSE, '--shape', '0', '4'), '--shape: expected a whole number above 0, got 0'),
        (('nothing.py',), 'config nothing.py does not exist'),
        ((), 'give a config file, or --list-conventions'),
    ],
)
def test_bad_input_is_one_sentence(args, sentence: str, tool: Tool, capsys):
    assert tool(TOOL, *args) == 2
    assert sentence in capsys.readouterr().err


def test_a_head_that_decides_by_numbers_is_counted(tool: Tool, tmp_path: Path, capsys):
    config, out = tmp_path / 'dino.py', tmp_path / 'dino.json'
    base = Path(mmdet.__file__).parent / '.mim/configs/dino/dino-4scale_r50_8xb2-12e_coco.py'
    config.write_text(f"""_base_ = '{base}'
model = dict(
    num_queries=20, encoder=dict(num_layers=1), decoder=dict(num_layers=1), neck=dict(in_channels=[16] * 3),
    backbone=dict(
        _delete_=True, type='PlainMamba', img_size=64, out_indices=(0, 1, 2), arch=dict(
            embed_dims=16, num_layers=4, num_convs=1, layers_with_dwconv=[],
            mixer_cfg=dict(d_state=4, expand=1, conv_size=3))))
""")
    assert tool(TOOL, config, '--shape', 96, 128, '--json', out) == 0
    cost = json.loads(out.read_text())
    assert cost['flops']['macs']['heads'] > cost['flops']['macs']['backbone'] > 0 and cost['left_out'] == ''
    assert 'Not counted' not in capsys.readouterr().out


def test_a_place_that_cannot_be_written_to_is_told_before_counting(tool: Tool, tmp_path: Path, capsys):
    (tmp_path / 'file').write_text('mine')
    for path, told in ((tmp_path / 'file/x.json', 'cannot be written to'), (tmp_path, 'is a folder; name a file')):
        assert tool(TOOL, DENSE, '--shape', 64, 64, '--json', path) == 2
        captured = capsys.readouterr()
        assert told in captured.err and captured.err.count('\n') == 1 and captured.out == ''
    assert (tmp_path / 'file').read_text() == 'mine'


def test_markup_in_a_name_is_printed_as_it_is(tool: Tool, tmp_path: Path, capsys):
    config = tmp_path / 'a[red]b[x].py'
    config.write_text(f"_base_ = '{DENSE}'\n")
    assert tool(TOOL, config, '--shape', 64, 64) == 0
    assert 'a[red]b[x].py, one image of 64 x 64 pixels' in capsys.readouterr().out.replace('\n', '')
