"""tools/calibrate.py on a real tiny checkpoint: a dense file in, a calibrated one out, nothing else changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import DET_CONFIG, PRUNING, SEG_CONFIG, write_config

Tool = Callable[..., int]
STORED = 'backbone.pruner.stages.0.alignment.stored_delta'


@pytest.mark.parametrize(('template', 'data'), [(SEG_CONFIG, 'seg_data'), (DET_CONFIG, 'det_data')], ids=['seg', 'det'])
def test_dense_checkpoint_becomes_a_calibrated_one(template, data, tool: Tool, tmp_path: Path, request):
    folder = request.getfixturevalue(data)
    dense = write_config(tmp_path / 'tiny_dense.py', template, folder, iters=1, interval=1)
    pruned = write_config(tmp_path / 'tiny.py', template, folder, pruning=dict(PRUNING, alignment='calibrated'))
    assert tool('train.py', dense, '--work-dir', tmp_path / 'work') == 0
    before, after = tmp_path / 'work' / 'iter_1.pth', tmp_path / 'out' / 'calibrated.pth'
    assert tool('calibrate.py', pruned, before, after, '--batches', 2) == 0
    old, new = (torch.load(path, weights_only=False)['state_dict'] for path in (before, after))
    assert {name for name in new if name not in old} == {STORED, STORED.replace('stored_delta', 'calibrated_batches')}
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert (new[STORED][2:] > 0).all()
    assert (new[STORED][:2] == 0).all()  # nothing is pruned before layer 2
    assert not list(after.parent.glob('*.part'))
    assert tool('test.py', pruned, after, '--work-dir', tmp_path / 'test') == 0
    assert tool('test.py', dense, after, '--work-dir', tmp_path / 'test_dense') == 0


def test_a_config_without_a_stored_delta_is_refused(seg_data: Path, tool: Tool, tmp_path: Path, capsys):
    config = write_config(tmp_path / 'tiny.py', SEG_CONFIG, seg_data, pruning=PRUNING)
    assert tool('calibrate.py', config, tmp_path / 'none.pth', tmp_path / 'out.pth') != 0
    assert "set pruning.alignment to 'calibrated' or 'learned'" in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()


def test_the_source_is_not_overwritten(seg_data: Path, tool: Tool, tmp_path: Path, capsys):
    config = write_config(tmp_path / 'tiny.py', SEG_CONFIG, seg_data, pruning=dict(PRUNING, alignment='calibrated'))
    source, link = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save({'state_dict': {}}, source)
    link.symlink_to(source)
    content = source.read_bytes()
    for out in (source, link, tmp_path / 'none' / '..' / 'a.pth'):
        (tmp_path / 'none').mkdir(exist_ok=True)
        assert tool('calibrate.py', config, source, out) == 2
        assert 'is the file to calibrate; give another name for the result' in capsys.readouterr().err
    assert source.read_bytes() == content
