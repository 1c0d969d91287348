"""Reading checkpoint files without running what they carry."""

from __future__ import annotations

import argparse
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mmssmprune._checkpoint_file import read_checkpoint
from mmssmprune.models import PlainMamba


class Trap:
    """Unpickled without care, it makes a file."""

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
