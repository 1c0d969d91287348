"""tools/model_converters/convert_official.py at the level of its command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from official_files import official_file

TOOL = 'model_converters/convert_official.py'


@pytest.fixture(scope='module')
def vim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('official') / 'vim_t.pth'
    torch.save(official_file('vim_tiny'), path)
    return path


def test_there_and_back(tool: Callable[..., int], tmp_path: Path, vim: Path, capsys):
    ours, back = tmp_path / 'ours.pth', tmp_path / 'back.pth'
    assert tool(TOOL, vim, ours, '--arch', 'vim_tiny', '--json') == 0
    out = capsys.readouterr().out
    assert 'Vim tiny (192 channels, 24 layers)' in out
    assert 'rope' in out
    assert f'{ours}: 415 keys of {vim}' in out

    meta = torch.load(ours)['meta']
    assert meta['source_sha256'] == sha256(vim.read_bytes()).hexdigest()
    assert (meta['source'], meta['task'], meta['converter_version']) == ('vim_t.pth', 'classification', 1)
    report = json.loads((tmp_path / 'ours.pth.json').read_text())
    assert report['renamed']['head.weight'] == 'head.fc.weight'
    assert set(report['dropped']) == {'rope.freqs_cos', 'rope.freqs_sin'}
    assert report['left_entries']['args'] == 'Namespace'

    assert tool(TOOL, ours, back, '--to-official') == 0
    before, after = official_file('vim_tiny')['model'], torch.load(back)['model']
    assert after.keys() == before.keys() - set(report['dropped'])
    assert all(torch.equal(after[key], before[key]) for key in after)


def test_bad_input_is_one_sentence_and_writes_nothing(tool: Callable[..., int], tmp_path: Path, vim: Path, capsys):
    (tmp_path / 'there.pth').touch()
    config = 'configs/plain_mamba/plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'
    for arguments, sentence in [
        ((vim, tmp_path / 'b.pth', '--arch', 'vim_small'), 'looks like Vim tiny (192 channels, 24 layers), not like'),
        ((vim, tmp_path / 'b.pth', '--arch', 'resnet'), "--arch is 'resnet'; the names are plain_mamba_l1"),
        ((vim, tmp_path / 'b.pth', '--config', config), 'but the config builds PlainMamba L1'),
        ((vim, tmp_path / 'b.pth', '--config', 'none.py'), 'config none.py does not exist'),
        ((vim, tmp_path / 'b.pth', '--to-official'), 'no weights of this package'),
        ((vim, tmp_path / 'there.pth'), 'exists; give another name, or --force'),
        ((vim, vim, '--force'), 'is the file to convert'),
        ((tmp_path / 'none.pth', tmp_path / 'b.pth'), 'does not exist'),
    ]:
        assert tool(TOOL, *arguments) == 2
        err = capsys.readouterr().err
        assert sentence in err
        assert 'Traceback' not in err
    assert [path.name for path in tmp_path.iterdir()] == ['there.pth']
    assert (tmp_path / 'there.pth').stat().st_size == 0
