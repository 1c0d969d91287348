"""Reading checkpoint files without running what they carry."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint
from official_files import YacsConfig, save_official
from torch import nn

from mmssmprune._stack import as_tuple
from mmssmprune.checkpoints.reading import (
    check_checkpoint_file,
    first_non_finite,
    is_complete_checkpoint,
    read_checkpoint,
)
from mmssmprune.engine.loading import read_config
from mmssmprune.models import PlainMamba


class Trap:
    """Unpickled without care, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('legacy', [False, True])
def test_plain_objects_are_read_from_new_and_old_files(tmp_path: Path, legacy: bool):
    args = argparse.Namespace(lr=1e-3, names=['a'])
    content = dict(model={'w': torch.ones(3)}, args=args, best=np.float64(0.5), seen=np.arange(3), done=np.int64(4))
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    loaded = read_checkpoint(str(tmp_path / 'a.pth'))
    assert loaded['args'] == args
    assert loaded['best'] == 0.5
    assert loaded['done'] == 4
    assert loaded['seen'].tolist() == [0, 1, 2]
    assert torch.equal(loaded['model']['w'], torch.ones(3))


@pytest.mark.parametrize('legacy', [False, True])
def test_a_yacs_config_is_read_as_a_dict_without_yacs(tmp_path: Path, legacy: bool):
    assert 'yacs' not in sys.modules
    config = YacsConfig(dict(MODEL=dict(NAME='vssm', DEPTHS=[2, 2, 8, 2], RATIO=1.0), TAG='', TWO=(1, None)))
    content = dict(model={'w': torch.ones(3)}, config=config, max_accuracy=82.5)
    save_official(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    loaded = read_checkpoint(str(tmp_path / 'a.pth'))
    assert loaded['config'] == config
    assert torch.equal(loaded['model']['w'], torch.ones(3))


@pytest.mark.skipif(as_tuple(torch.__version__) < (2, 6), reason='torch takes no second name for a function')
@pytest.mark.parametrize('written_by', ['numpy.core', 'numpy._core'])  # NumPy 1 and 2
def test_numpy_values_of_another_numpy_are_read(tmp_path: Path, written_by: str):
    torch.save({'best': np.float64(0.5), 'seen': np.arange(3)}, tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as old, zipfile.ZipFile(tmp_path / 'b.pth', 'w') as new:
        for record in old.namelist():
            content = old.read(record)
            if record.endswith('data.pkl'):
                content = re.sub(rb'numpy\._?core', written_by.encode(), content)
            new.writestr(record, content)
    loaded = read_checkpoint(str(tmp_path / 'b.pth'))
    assert loaded['best'] == 0.5
    assert loaded['seen'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_does_not_run(tmp_path: Path, legacy: bool):
    trap = tmp_path / 'sprung'
    torch.save({'state_dict': {}, 'meta': Trap(trap)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r'asks for \w+.mkdir, .* was not loaded: .* keep only its weights'):
        read_checkpoint(str(tmp_path / 'a.pth'))
    assert not trap.exists()
    backbone = PlainMamba('L1', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth')))
    with pytest.raises(ValueError, match='was not loaded'):
        backbone.init_weights()
    assert not trap.exists()


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path):
    with tarfile.open(tmp_path / 'old.pth', 'w') as archive:
        archive.addfile(tarfile.TarInfo('sys_info'), io.BytesIO())
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / 'script.pth')
    (tmp_path / 'cut.pth').write_bytes(b'\x80\x02}q\x00(')
    (tmp_path / 'text.pth').write_text('weights')
    for name, message in {
        'old.pth': 'tar format of PyTorch 0.1',
        'script.pth': 'TorchScript archive',
        'cut.pth': 'cannot be read',
        'text.pth': 'no file that torch.save wrote',
    }.items():
        with pytest.raises(ValueError, match=message):
            read_checkpoint(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_checkpoint(str(tmp_path / 'none.pth'))


@pytest.mark.parametrize('where', ['weights', 'pickle', 'folder mark'])
def test_flipped_bytes_are_refused_wherever_they_are(tmp_path: Path, where: str):
    weight = torch.linspace(1, 2, 1000)
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'layer.weight': weight}}, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo('a/data/0')
    place = {
        'weights': content.index(weight.numpy().tobytes()) + 1234,
        'pickle': content.index(b'layer.weight') + 3,
        # In the archive's directory, where no checksum looks; torch then reads nothing into fresh memory.
        'folder mark': content.rindex(record.filename.encode()) - 8,
    }[where]
    content[place] ^= 0x10
    path.write_bytes(content)
    assert not is_complete_checkpoint(path)
    for read in (read_checkpoint, check_checkpoint_file, lambda path: load_checkpoint(nn.Linear(1, 1), path)):
        with pytest.raises(ValueError, match=r'a\.pth is damaged: a/data[./].* does not match its checksum'):
            read(str(path))


@pytest.mark.skipif(not hasattr(torch.serialization, 'set_crc32_options'), reason='torch always writes them')
def test_a_file_without_checksums_loads(tmp_path: Path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({'weight': torch.ones(3)}, tmp_path / 'a.pth')
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_checkpoint(str(tmp_path / 'a.pth'))['weight'], torch.ones(3))


def test_what_was_checked_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({'weight': torch.ones(3)}, tmp_path / 'a.pth')
    torch.save({'weight': torch.zeros(3)}, tmp_path / 'b.pth')
    load = torch.load

    def swap_and_load(*args, **kwargs):
        os.replace(tmp_path / 'b.pth', tmp_path / 'a.pth')
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, 'load', swap_and_load)
    assert torch.equal(read_checkpoint(str(tmp_path / 'a.pth'))['weight'], torch.ones(3))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('name', ['layer.weight', 'norm.running_var', 'layer.A_log'])
@pytest.mark.parametrize('entry', ['state_dict', 'model', 'ema_state_dict', None])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, entry: str | None, name: str, value: float):
    weights = {'first': torch.ones(2), name: torch.tensor([1.0, 2.0, value]), 'last': torch.full((2,), value)}
    content = weights if entry is None else {'state_dict': {'a': torch.ones(1)}, entry: weights}
    if entry == 'model':
        del content['state_dict']
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=rf'a\.pth holds weights that are not finite, {name} first'):
        read_checkpoint(str(tmp_path / 'a.pth'))


def test_masks_of_other_models_may_hold_infinity(tmp_path: Path):
    causal = torch.full((4, 4), -torch.inf).triu(1)
    state = {'attn_mask': causal, 'attn.shifted': causal, 'half': torch.full((9,), 6e4, dtype=torch.float16)}
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    assert read_checkpoint(str(tmp_path / 'a.pth'))['state_dict'].keys() == state.keys()
    assert first_non_finite({'mask_token': torch.tensor([0.5, torch.inf])}) == 'mask_token'
    assert first_non_finite({'bias': torch.tensor([0.0, -torch.inf])}) == 'bias'
    assert first_non_finite({'attn_mask': torch.tensor([torch.nan])}) == 'attn_mask'


@pytest.mark.parametrize('forced', [None, '1'])
@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_pretrained_weights_of_foreign_modules_run_no_code(tmp_path: Path, monkeypatch, prefix, forced):
    trap = Trap(tmp_path / 'sprung')
    torch.save({'state_dict': {'backbone.weight': torch.ones(2, 2)}, 'meta': trap}, tmp_path / 'a.pth')
    if forced:  # what the original distributions are run with to resume
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', forced)

    class Neck(BaseModule):
        def __init__(self, init_cfg: dict):
            super().__init__(init_cfg)
            self.weight = nn.Parameter(torch.zeros(2, 2))

    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix=prefix)
    with pytest.raises(ValueError, match='was not loaded: unpickling it could run code'):
        Neck(init_cfg).init_weights()
    for load in (CheckpointLoader.load_checkpoint, lambda path: load_checkpoint(nn.Linear(1, 1), path)):
        with pytest.raises(ValueError, match='was not loaded: unpickling it could run code'):
            load(str(tmp_path / 'a.pth'))
    assert not trap.path.exists()
    assert os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD') == forced


def test_loaders_of_other_schemes_run_no_code_either(tmp_path: Path):
    trap = Trap(tmp_path / 'sprung')
    torch.save({'state_dict': {}, 'meta': trap}, tmp_path / 'a.pth')

    @CheckpointLoader.register_scheme(prefixes='shelf://', force=True)
    def load_from_shelf(filename: str, map_location=None):
        return torch.load(tmp_path / filename.removeprefix('shelf://'), map_location, weights_only=False)

    with pytest.raises(ValueError, match='was not loaded'):
        CheckpointLoader.load_checkpoint('shelf://a.pth')
    assert not trap.path.exists()
    torch.save({'weight': torch.ones(2)}, tmp_path / 'b.pth')
    assert torch.equal(CheckpointLoader.load_checkpoint('shelf://b.pth')['weight'], torch.ones(2))


def test_yaml_tags_run_no_code(tmp_path: Path):
    (tmp_path / 'base.yml').write_text(f'a: !!python/object/apply:os.mkdir [{tmp_path / "sprung"}]\n')
    (tmp_path / 'config.yml').write_text('_base_: base.yml\nb: 1\n')
    for name in ('base.yml', 'config.yml'):
        with pytest.raises(ValueError, match=rf'{name} is no YAML of plain data .*os\.mkdir'):
            read_config(str(tmp_path / name))
    assert not (tmp_path / 'sprung').exists()
    mmengine.dump(dict(size=(2, 3), model=dict(type='A', layers=[1])), tmp_path / 'plain.yml')
    assert read_config(str(tmp_path / 'plain.yml')).size == (2, 3)
    assert read_config(str(tmp_path / 'plain.yml')).model.layers == [1]
