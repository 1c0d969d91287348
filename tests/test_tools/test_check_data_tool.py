"""tools/dataset_tools/check_data.py at the level of its command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from stand_in_data import make_ade20k
from tiny_runs import REPO, tool_environment

TOOL = 'dataset_tools/check_data.py'
MINI = REPO / 'configs/plain_mamba/plain-mamba-mini_upernet_1xb8-450i_mini-ade-128x128.py'


def test_what_is_wrong_is_said_and_the_exit_status_tells(tool: Callable[..., int], tmp_path: Path, capsys):
    root = make_ade20k(tmp_path) / 'ade' / 'ADEChallengeData2016'
    (root / 'annotations/training/ADE_00000000.png').unlink()
    assert tool(TOOL, 'ade', '--root', root, '--workers', 2) == 1
    out = capsys.readouterr().out
    assert 'ade training: 2 images, 1 label maps' in out
    assert '  wrong: there are 2 images, and the published set has 20210\n' in out
    assert '  wrong: 1 images have no label map, e.g. ADE_00000000.jpg\n' in out
    assert out.endswith('kinds of things wrong\n')


@pytest.mark.parametrize('kind', ['coco', 'ade', 'imagenet'])
def test_it_needs_no_other_part_of_the_package_before_it(kind: str, tmp_path: Path):
    """In a process of its own, which takes seconds: here others have prepared what the suites import."""
    make_ade20k(tmp_path)
    command = [sys.executable, REPO / 'tools' / TOOL, kind, '--quick']
    root = ['--root', tmp_path / 'ade/ADEChallengeData2016'] if kind == 'ade' else ['--root', tmp_path]
    ended = subprocess.run([*command, *root], env=tool_environment(), capture_output=True, text=True)
    assert ended.returncode == 1 and 'wrong: ' in ended.stdout and 'Traceback' not in ended.stderr, ended.stderr


def test_a_whole_set_named_by_a_config(
    tool: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    ade = make_ade20k(tmp_path) / 'ade' / 'ADEChallengeData2016'
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(tmp_path))
    for path in ade.rglob('*.jpg'):  # the small set's images are PNG
        path.rename(path.with_suffix('.png'))
    ade.rename(tmp_path / 'mini_ade')
    assert tool(TOOL, MINI, '--full') == 1  # its labels go beyond the nine classes of the small set
    assert '2 label maps hold labels other than 0 to 9' in capsys.readouterr().out
    assert tool(TOOL, MINI, '--quick') == 0
    told = 'train: 2 images, 2 label maps\nval: 1 images, 1 label maps\nnothing wrong\n'
    assert capsys.readouterr().out.endswith(told)  # mmengine may speak before


def test_what_one_split_lacks_does_not_hide_the_others(tool: Callable[..., int], tmp_path: Path, capsys):
    for name in ('a', 'b'):
        for folder, suffix, picture in (('img', '.tif', (9, 9, 9)), ('ann', '.png', int(name == 'b'))):
            (tmp_path / folder).mkdir(exist_ok=True)
            mode = 'L' if folder == 'ann' else 'RGB'
            Image.new(mode, (32, 24), picture).save(tmp_path / folder / f'{name}{suffix}')
    config = tmp_path / 'config.py'
    config.write_text(
        f"""default_scope = 'mmseg'
model = dict(type='EncoderDecoder', decode_head=dict(num_classes=2))
both = dict(img_path='img', seg_map_path='ann')
common = dict(type='BaseSegDataset', data_root={str(tmp_path)!r}, metainfo=dict(classes=('x', 'y')), img_suffix='.tif')
train_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(data_prefix=both, **common)))
val_dataloader = dict(dataset=dict(data_prefix=both, ann_file='val.txt', **common))
test_dataloader = dict(dataset=dict(data_prefix=dict(img_path='img'), **common))
"""
    )
    (tmp_path / 'val.txt').write_text('b\n')
    assert tool(TOOL, config, '--full') == 0
    out = capsys.readouterr().out
    assert 'train: 2 images, 2 label maps\nval: 1 images, 2 label maps\n' in out
    assert '  note: there are no label maps, so that predictions can be written but not judged\n' in out
    (tmp_path / 'val.txt').write_text('b\nc\n')
    assert tool(TOOL, config) == 1
    assert '  wrong: 1 images that the list names are missing, e.g. c.tif\n' in capsys.readouterr().out


def test_bad_input_is_one_sentence(tool: Callable[..., int], tmp_path: Path, capsys):
    for arguments, sentence in [
        (('none.py',), 'none.py is neither a config file nor one of coco, ade, imagenet'),
        ((MINI, '--root', tmp_path), '--root goes with coco, ade or imagenet'),
        (('ade', '--workers', 0), '--workers: expected a whole number above 0, got 0'),
    ]:
        assert tool(TOOL, *arguments) == 2
        assert sentence in capsys.readouterr().err
