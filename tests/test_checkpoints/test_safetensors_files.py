"""Weights as safetensors: the same after a round trip, with grids and meta, and damage is seen."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_backbones import PLAIN_ARCH

from mmssmprune.checkpoints.loading import load_pretrained
from mmssmprune.checkpoints.reading import check_checkpoint_file, is_complete_checkpoint, read_checkpoint
from mmssmprune.checkpoints.writing import save_checkpoint
from mmssmprune.models import PlainMamba

META = {'cfg': 'a = 1', 'dataset_meta': {'classes': ('a', 'b'), 'palette': [(1, 2, 3)]}, 'iter': 7, 'best': 1.5}


def plain(*img_size: int) -> PlainMamba:
    torch.manual_seed(0)
    return PlainMamba(PLAIN_ARCH, img_size=img_size)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    state = plain(32, 64).state_dict()
    save_checkpoint({'state_dict': state, 'meta': META, 'optimizer': {'lr': 1}}, tmp_path / 'a.safetensors')
    return tmp_path / 'a.safetensors'


def test_weights_grid_and_meta_come_back(file: Path):
    expected = plain(32, 64).state_dict()
    checkpoint = read_checkpoint(str(file))
    state = checkpoint['state_dict']
    assert state.keys() == expected.keys()
    assert all(state[k].dtype == expected[k].dtype and torch.equal(state[k], expected[k]) for k in expected)
    assert state._metadata[''] == {'pos_hw': (2, 4)}
    assert 'optimizer' not in checkpoint
    assert checkpoint['meta'] == json.loads(json.dumps(META))
    assert is_complete_checkpoint(file)


def test_embeddings_of_a_grid_that_is_no_square_are_resized_from_the_true_one(file: Path):
    """2x4 cells are as many as no square's, but 1:4 would be taken for one without the record."""
    other, same = plain(64, 32), plain(32, 64)
    for model in (other, same):
        load_pretrained(model, str(file), None, ())
    expected = plain(32, 64).state_dict()['pos_embed']
    assert torch.equal(same.pos_embed, expected)
    assert other.pos_embed.shape == expected.shape
    assert not torch.equal(other.pos_embed, expected)


def test_shared_and_strided_tensors_of_every_type_are_written(tmp_path: Path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {'a': base, 'b': base, 'c': base.t(), 'd': base.bfloat16(), 'e': torch.tensor(3), 'f': torch.zeros(0, 2)}
    save_checkpoint({'model': state}, tmp_path / 'a.safetensors')
    back = read_checkpoint(str(tmp_path / 'a.safetensors'))['model']
    assert all(back[k].dtype == v.dtype and torch.equal(back[k], v) for k, v in state.items())


def test_files_of_others_are_read(tmp_path: Path):
    save_file({'weight': torch.ones(2, 2)}, tmp_path / 'a.safetensors', {'format': 'pt', 'by': 'others'})
    assert torch.equal(read_checkpoint(str(tmp_path / 'a.safetensors'))['state_dict']['weight'], torch.ones(2, 2))


def flip(content: bytearray, at: int) -> None:
    content[at] ^= 0x10


def with_header(content: bytes, **ours: object) -> bytes:
    """The same weights with something else in the part of the header that is this package's."""
    (length,) = struct.unpack('<Q', content[:8])
    header = json.loads(content[8 : 8 + length])
    header['__metadata__']['mmssmprune'] = json.dumps(json.loads(header['__metadata__']['mmssmprune']) | ours)
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + content[8 + length :]


@pytest.mark.parametrize('where', [-1, -500, -5000])
def test_a_flipped_bit_in_a_weight_is_seen(file: Path, where: int):
    content = bytearray(file.read_bytes())
    flip(content, where)
    file.write_bytes(content)
    assert not is_complete_checkpoint(file)
    for look in (check_checkpoint_file, read_checkpoint):
        with pytest.raises(ValueError, match='damaged: its weights do not match their checksum'):
            look(str(file))


@pytest.mark.parametrize('length', [9, 100, -1])
def test_a_file_that_is_cut_short_is_refused(file: Path, length: int):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match='is cut short'):
        read_checkpoint(str(file))


@pytest.mark.parametrize(
    'ours',
    [
        dict(grids={'': [1]}),
        dict(grids={'': ['2', 4]}),
        dict(grids=[1]),
        dict(container='__class__'),
        dict(container=['a']),
        dict(meta=[1]),
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense_is_refused(file: Path, ours: dict):
    file.write_bytes(with_header(file.read_bytes(), **ours))
    with pytest.raises(ValueError, match='is cut short, or no file of safetensors'):
        read_checkpoint(str(file))


def test_weights_that_are_not_finite_are_refused_here_too(tmp_path: Path):
    save_checkpoint({'state_dict': {'a.weight': torch.tensor([1.0, float('nan')])}}, tmp_path / 'a.safetensors')
    with pytest.raises(ValueError, match=r'not finite, a\.weight first'):
        read_checkpoint(str(tmp_path / 'a.safetensors'))


def test_without_the_package_a_sentence_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__('sys').modules, 'safetensors.torch', None)
    with pytest.raises(ValueError, match='pip install safetensors'):
        read_checkpoint(str(file))
