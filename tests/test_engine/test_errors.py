from __future__ import annotations

import json
import urllib.error
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import mmssmprune.models  # noqa: F401  (before mmdet, which cannot be imported beside a torchvision of another build)
from mmssmprune.checkpoints.reading import check_checkpoint_file
from mmssmprune.engine.errors import sentence_errors, to_sentence


def end_of(block, capsys: pytest.CaptureFixture, building: bool = False) -> str:
    with pytest.raises(SystemExit) as end, sentence_errors(building):
        block()
    assert end.value.code == 2
    return capsys.readouterr().err


def test_own_errors_become_one_line(capsys):
    err = end_of(lambda: check_checkpoint_file('none.pth'), capsys)
    assert err == 'error: checkpoint none.pth does not exist\n'


def test_a_wrapped_own_error_loses_the_wrapper(capsys):
    def build():
        try:
            check_checkpoint_file('none.pth')
        except FileNotFoundError as error:  # as older registries do
            raise FileNotFoundError(f'class `PlainMamba` in a/b.py: {error}') from error

    assert end_of(build, capsys) == 'error: checkpoint none.pth does not exist\n'


def test_slips_keep_their_traceback_while_running():
    with pytest.raises(ZeroDivisionError), sentence_errors(building=True):
        _ = 1 / 0
    with pytest.raises(ValueError, match='invalid literal'), sentence_errors():
        int('a')


def test_library_errors_speak_of_the_config_while_building(capsys):
    def build():
        raise KeyError('Foo is not in the registry.\nPlease check')

    assert end_of(build, capsys, building=True) == 'error: Foo is not in the registry. Please check\n'
    with pytest.raises(KeyError), sentence_errors():
        build()


def test_an_error_without_words_keeps_its_traceback():
    with pytest.raises(AssertionError), sentence_errors(building=True):
        raise AssertionError


def test_a_failed_download_tells_the_way_out():
    sentence = to_sentence(urllib.error.URLError('no route'))
    assert 'init_cfg.checkpoint=PATH' in sentence


class Annotations(Dataset):
    """A data set of which the second entry lacks what its reader needs."""

    def __len__(self):
        return 2

    def __getitem__(self, i: int) -> int:
        return [{'iscrowd': 0}, {}][i]['iscrowd']


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_while_data_is_loaded_tells_its_cause_in_a_line(workers: int, capsys):
    err = end_of(lambda: list(DataLoader(Annotations(), num_workers=workers)), capsys)
    assert err.startswith("error: KeyError: 'iscrowd' (while data is loaded)")
    assert 'check_data.py' in err
    assert err.count('\n') == 1


def test_a_label_beyond_the_classes_is_told_and_a_slip_of_this_package_is_not(capsys):
    def train():
        torch.nn.functional.cross_entropy(torch.zeros(1, 3), torch.tensor([7]))

    assert 'label of the data is beyond num_classes' in end_of(train, capsys)
    here = Path(__file__).resolve().parents[2] / 'mmssmprune'
    slip = compile('import torch\ntorch.zeros(3)[7]', str(here / 'pruning/slip.py'), 'exec')
    with pytest.raises(IndexError), sentence_errors():
        exec(slip)
    for kind in ('KeyError', 'TypeError', 'AssertionError'):
        slip = compile(f'error = {kind}("a")\nassert False, "b"', str(here / 'pruning/slip.py'), 'exec')
        with pytest.raises(AssertionError), sentence_errors():
            exec(slip)


def test_what_the_system_says_is_told_wherever_it_shows(tmp_path: Path, capsys):
    (tmp_path / 'file').write_text('')
    assert 'Not a directory' in end_of(lambda: (tmp_path / 'file' / 'a').write_text(''), capsys)
    assert 'less memory' in end_of(
        lambda: _raise(RuntimeError('DataLoader worker (pid 7) is killed by signal')), capsys
    )
    assert 'no such GPU' in end_of(lambda: _raise(RuntimeError('No CUDA GPUs are available')), capsys)
    assert 'with_cp' in end_of(lambda: _raise(torch.cuda.OutOfMemoryError('CUDA out of memory. Tried ...')), capsys)


def _raise(error: Exception) -> None:
    raise error


def test_a_broken_file_is_named(tmp_path: Path, capsys):
    from mmdet.datasets import CocoDataset

    broken = tmp_path / 'train.json'
    broken.write_text(json.dumps(dict(images=[], annotations=[]))[:-3])
    err = end_of(lambda: CocoDataset(ann_file=str(broken)), capsys)
    assert str(broken) in err


def test_a_part_of_a_suite_that_does_not_fit_is_told_with_its_place(capsys):
    from mmcv.cnn import ConvModule
    from mmdet.models import FPN

    err = end_of(lambda: ConvModule(8, 4, 1)(torch.zeros(1, 3, 4, 4)), capsys)
    assert 'to have 8 channels, but got 3' in err
    assert 'conv_module.py, line' in err
    # An assert without words is told by its code.
    assert 'assert len(inputs) == len(self.in_channels)' in end_of(lambda: FPN([4, 4], 4, 2)([torch.zeros(1)]), capsys)
