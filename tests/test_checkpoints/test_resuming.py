"""Which checkpoint an interrupted training goes on from."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmssmprune.checkpoints.reading import is_complete_checkpoint, training_state_allowed
from mmssmprune.checkpoints.resuming import find_resume_checkpoint


def save(path: Path, content: object = None) -> Path:
    torch.save({'state_dict': {'weight': torch.zeros(100)}} if content is None else content, path)
    return path


@pytest.mark.parametrize('legacy', [False, True])
def test_whole_files_are_complete(tmp_path: Path, legacy: bool):
    torch.save(torch.zeros(3), tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    assert is_complete_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.99])
def test_files_cut_anywhere_are_not_complete(tmp_path: Path, share: float):
    content = save(tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'a.pth').write_bytes(content[: int(share * len(content))])
    assert not is_complete_checkpoint(tmp_path / 'a.pth')


def test_resume_takes_what_last_checkpoint_names(tmp_path: Path):
    save(tmp_path / 'iter_10.pth')
    save(tmp_path / 'iter_500.pth')  # left from an older, longer run
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_10.pth'))
    assert find_resume_checkpoint(tmp_path) == str(tmp_path / 'iter_10.pth')


def test_resume_finds_its_checkpoint_in_a_moved_folder(tmp_path: Path):
    save(tmp_path / 'epoch_3.pth')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    assert find_resume_checkpoint(tmp_path) == str(tmp_path / 'epoch_3.pth')


@pytest.mark.parametrize('pointer', [None, '', 'iter_300.pth', 'iter_30.pth', '/elsewhere/iter_50.pth'])
@pytest.mark.parametrize('damage', ['cut', 'flipped'])
def test_resume_falls_back_to_the_furthest_whole_file(tmp_path: Path, pointer: str | None, damage: str):
    now = time.time()
    for i, name in enumerate(('iter_30.pth', 'iter_20.pth', 'iter_9.pth')):  # the oldest was touched last
        os.utime(save(tmp_path / name), (now + i, now + i))
    content = bytearray((tmp_path / 'iter_30.pth').read_bytes())
    content[content.index(bytes(400)) + 100] ^= 1  # one bit of the weights
    (tmp_path / 'iter_30.pth').write_bytes(content[:100] if damage == 'cut' else content)
    save(tmp_path / 'best_mIoU_iter_40.pth')  # has no optimizer: nothing to resume from
    if pointer is not None:
        (tmp_path / 'last_checkpoint').write_text(pointer and str(tmp_path / pointer))
    assert find_resume_checkpoint(tmp_path) == str(tmp_path / 'iter_20.pth')


def test_a_copied_work_dir_goes_on_from_its_own_files(tmp_path: Path):
    original, copy = tmp_path / 'original', tmp_path / 'copy'
    original.mkdir()
    save(original / 'iter_10.pth')
    save(original / 'iter_20.pth')
    (original / 'last_checkpoint').write_text(str(original / 'iter_20.pth'))
    shutil.copytree(original, copy)
    assert find_resume_checkpoint(copy) == str(copy / 'iter_20.pth')
    (copy / 'iter_20.pth').unlink()
    assert find_resume_checkpoint(copy) == str(copy / 'iter_10.pth')


def test_resume_finds_what_a_checkpoint_hook_with_an_out_dir_wrote(tmp_path: Path):
    (tmp_path / 'work').mkdir()
    save(tmp_path / 'iter_20.pth')
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(tmp_path / 'iter_20.pth'))
    assert find_resume_checkpoint(tmp_path / 'work') == str(tmp_path / 'iter_20.pth')


@pytest.mark.parametrize(('per_epoch', 'furthest'), [(30, 'iter_100.pth'), (50, 'epoch_3.pth')])
def test_epochs_and_iterations_are_compared_by_what_the_files_say(tmp_path: Path, per_epoch: int, furthest: str):
    save(tmp_path / 'iter_100.pth', {'state_dict': {}, 'meta': {'iter': 100, 'epoch': 0}})
    save(tmp_path / 'epoch_3.pth', {'state_dict': {}, 'meta': {'iter': 3 * per_epoch, 'epoch': 3}})
    assert find_resume_checkpoint(tmp_path) == str(tmp_path / furthest)


def test_nothing_to_resume(tmp_path: Path):
    assert find_resume_checkpoint(tmp_path) is None
    assert find_resume_checkpoint(tmp_path / 'none') is None


def test_log_histories_load_without_arbitrary_unpickling(tmp_path: Path):
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    save(tmp_path / 'a.pth', {'message_hub': {'log_scalars': {'loss': history}}})
    with training_state_allowed():
        loaded = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert loaded['message_hub']['log_scalars']['loss'].current() == 0.25
