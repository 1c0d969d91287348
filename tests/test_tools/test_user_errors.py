"""What a user can get wrong ends tools/train.py and tools/test.py in one sentence, also where it shows late."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import DET_CONFIG, SEG_CONFIG, write_config

Tool = Callable[..., int]

SETTINGS = {
    'optim_wrapper.optimizer.type=AdmaW': 'AdmaW is not in the optimizer registry; did you mean AdamW?',
    '+optim_wrapper.optimizer.lrr=1': "unexpected keyword argument 'lrr'",
    'optim_wrapper.optimizer.lr=-1': 'lr is -1; it has to be a number from 0 on',
    'optim_wrapper.optimizer.lr=abc': "lr is 'abc'; it has to be a number from 0 on",
    'optim_wrapper.optimizer.lr=nan': 'lr is nan; it has to be a number',
    'optim_wrapper.optimizer.weight_decay=-0.1': 'weight_decay is -0.1',
    'model.decode_head.in_channels=48': 'channels, but got',
    'model.decode_head.in_index=3': 'IndexError: ',
    'param_scheduler.0.type=PolyLRR': 'PolyLRR is not in the',
    'val_evaluator.type=IoUMetrics': 'IoUMetrics is not in the',
    'train_dataloader.batch_size=0': 'train_dataloader.batch_size is 0; it has to be a whole number from 1 on',
    'train_dataloader.batch_size=-1': 'train_dataloader.batch_size is -1',
    'val_dataloader.batch_size=2.5': 'val_dataloader.batch_size is 2.5',
    'train_dataloader.num_workers=-1': 'num_workers is -1; it has to be a whole number from 0 on',
    'train_dataloader.persistent_workers=True': 'persistent_workers',
    'train_cfg.max_iters=-1': 'train_cfg.max_iters is -1; it has to be a whole number from 1 on',
    'train_cfg.max_iters=0': 'train_cfg.max_iters is 0',
    'train_cfg.max_iters=abc': "train_cfg.max_iters is 'abc'",
    'train_cfg.max_iters=True': 'train_cfg.max_iters is True',
    'train_cfg.val_interval=-5': 'train_cfg.val_interval is -5',
    'train_dataloader=None': 'the config cannot be used to train',
    'model.decode_head.num_classes=2': 'num_classes is 2, but the data set of train_dataloader has 3 classes',
}


def told(capfd: pytest.CaptureFixture) -> str:
    """The one sentence on stderr; fails if there is a traceback."""
    err = capfd.readouterr().err
    assert 'Traceback' not in err
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, err[-2000:]
    assert len(lines[0]) < 600
    return lines[0]


# 1 s each: a tiny model is built, and a few settings show in the first iteration only.
@pytest.mark.parametrize(('option', 'sentence'), SETTINGS.items(), ids=SETTINGS.keys())
def test_wrong_settings(
    option: str, sentence: str, seg_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    config = write_config(tmp_path / 'tiny_seg_wrong.py', SEG_CONFIG, seg_data)
    assert tool('train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', option) == 2
    assert sentence in told(capfd)
    assert not list((tmp_path / 'work').glob('*.pth'))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def drop(key: str) -> Callable[[dict], None]:
    return lambda content: [annotation.pop(key) for annotation in content['annotations']]


BROKEN_BOXES = {
    'annotations cut short': (lambda root: cut(root / 'annotations/train.json'), 'train.json'),
    'no categories': (
        lambda root: rewrite(root / 'annotations/train.json', lambda c: c.pop('categories')),
        "KeyError: 'categories'",
    ),
    'no box': (lambda root: rewrite(root / 'annotations/train.json', drop('bbox')), "KeyError: 'bbox'"),
    'no images left': (
        lambda root: rewrite(root / 'annotations/train.json', lambda c: c.update(images=[], annotations=[])),
        'train_dataloader has no image',
    ),
    'an image is missing': (lambda root: (root / 'train/1.png').unlink(), 'train/1.png'),
    'an image is cut short': (lambda root: (root / 'train/1.png').write_bytes(b'GIF'), '1.png'),
    'no crowd flag at validation': (
        lambda root: rewrite(root / 'annotations/val.json', drop('iscrowd')),
        "KeyError: 'iscrowd'",
    ),
}


@pytest.mark.parametrize(
    ('name', 'workers'),
    [*((name, 0) for name in BROKEN_BOXES), ('an image is missing', 1), ('an image is cut short', 1)],
)
def test_broken_boxes(
    name: str, workers: int, det_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    damage, sentence = BROKEN_BOXES[name]
    shutil.copytree(det_data, tmp_path / 'data')
    damage(tmp_path / 'data')
    config = write_config(tmp_path / 'tiny_det_broken.py', DET_CONFIG, tmp_path / 'data', iters=2)
    options = ('train_cfg.val_interval=1', f'train_dataloader.num_workers={workers}')
    assert tool('train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', *options) == 2
    assert sentence in told(capfd)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def set_labels(folder: Path, value: int) -> None:
    for path in folder.iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), value)).save(path)


BROKEN_MAPS = {
    'empty training set': (lambda root: empty(root / 'images/training'), 'train_dataloader has no image'),
    'empty validation set': (lambda root: empty(root / 'images/validation'), 'val_dataloader has no image'),
    'a label map is missing': (lambda root: (root / 'annotations/training/3.png').unlink(), 'training/3.png'),
    'an image that is none': (lambda root: (root / 'images/training/3.png').write_text('no image'), 'training/3.png'),
    'labels beyond the classes': (
        lambda root: set_labels(root / 'annotations/training', 7),
        'a label of the data is beyond num_classes of the head',
    ),
}


@pytest.mark.parametrize('name', BROKEN_MAPS)
def test_broken_label_maps(name: str, seg_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture):
    damage, sentence = BROKEN_MAPS[name]
    shutil.copytree(seg_data, tmp_path / 'data')
    damage(tmp_path / 'data')
    config = write_config(tmp_path / 'tiny_seg_broken.py', SEG_CONFIG, tmp_path / 'data')
    option = 'train_dataloader.batch_size=8'
    assert tool('train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', option) == 2
    assert sentence in told(capfd)


def test_a_detector_of_fewer_classes_than_the_data(
    det_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    config = write_config(tmp_path / 'tiny_det_classes.py', DET_CONFIG, det_data)
    option = 'model.bbox_head.num_classes=1'
    assert tool('train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', option) == 2
    assert 'model.bbox_head.num_classes is 1, but' in told(capfd)


@pytest.fixture(scope='module')
def seg_run(seg_data: Path, tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp('seg_errors')
    config = write_config(folder / 'tiny_seg_errors.py', SEG_CONFIG, seg_data, iters=1, interval=1)
    assert tool('train.py', config, '--work-dir', folder / 'work') == 0
    return config, folder / 'work' / 'iter_1.pth'


def test_places_that_cannot_be_written(
    seg_run: tuple[Path, Path], tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    config, checkpoint = seg_run
    file = tmp_path / 'file'
    file.write_text('kept')
    for args in (
        ('train.py', config, '--work-dir', file),
        ('train.py', config, '--work-dir', file / 'below'),
        ('train.py', config, '--work-dir', '/proc/none/work'),
        ('test.py', config, checkpoint, '--work-dir', file),
        ('test.py', config, checkpoint, '--work-dir', tmp_path / 'work', '--out', file / 'below'),
        ('test.py', config, checkpoint, '--work-dir', tmp_path / 'work', '--show-dir', file),
        ('test.py', config, checkpoint, '--work-dir', tmp_path / 'work', '--show-dir', '/proc/none/drawn'),
    ):
        assert tool(*args) == 2, args
        sentence = told(capfd)
        assert str(file) in sentence or '/proc/none' in sentence
    assert file.read_text() == 'kept'


def test_a_full_disk_ends_training_with_a_sentence(
    seg_run: tuple[Path, Path], tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    """A limit on the size of files stops the checkpoint, as a full disk does; logs are smaller."""
    resource = pytest.importorskip('resource')
    config, checkpoint = seg_run
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (checkpoint.stat().st_size // 2, before[1]))
    try:
        assert tool('train.py', config, '--work-dir', tmp_path / 'work') == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 'File too large' in told(capfd)
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_an_out_file_that_is_a_folder(det_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture):
    config = write_config(tmp_path / 'tiny_det_out.py', DET_CONFIG, det_data)
    checkpoint = tmp_path / 'any.pth'
    torch.save(dict(state_dict={}), checkpoint)
    (tmp_path / 'a.pkl').mkdir()
    for out in (tmp_path / 'a.pkl', checkpoint / 'below.pkl'):
        assert tool('test.py', config, checkpoint, '--work-dir', tmp_path, '--out', out) == 2
        assert str(out if out.name == 'a.pkl' else checkpoint) in told(capfd)
