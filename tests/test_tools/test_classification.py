"""tools/train.py and tools/test.py on a tiny classifier and small image files, and what they say without mmpretrain."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from stand_in_imagenet import make_imagenet
from tiny_runs import REPO, scalars

Tool = Callable[..., int]

# The config of a released size with everything smaller; what it trains on is what the real one would.
CONFIG = """
_base_ = '{repo}/configs/{base}.py'
side = 64
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomResizedCrop', scale=side), dict(type='PackInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(side, side)), dict(type='PackInputs')]
small = dict(batch_size=2, num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader = dict(small, dataset=dict(data_root='{data}/imagenet', pipeline=train_pipeline))
val_dataloader = dict(small, dataset=dict(data_root='{data}/imagenet', pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=16, num_layers=4, mixer_cfg=dict(d_state=4)), img_size=side),
    head=dict(in_channels=16),
)
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
"""
PRUNING = dict(_delete_=True, layers=[1], keep_ratio=0.5, alignment='carry')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_imagenet(tmp_path_factory.mktemp('imagenet_data'))


def write_config(path: Path, base: str, data: Path, pruning: dict | None = None) -> Path:
    extra = f'model["backbone"]["pruning"] = {pruning!r}\n' if pruning else ''
    path.write_text(CONFIG.format(repo=REPO, base=base, data=data) + extra)
    return path


@pytest.fixture(scope='module')
def dense(data: Path, tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense Vim's config and its checkpoint after one epoch, with averaged weights."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('dense')
    config = write_config(folder / 'tiny_cls_dense.py', 'vim/vim-t_8xb128_in1k', data)
    assert tool('train.py', config, '--work-dir', folder / 'work') == 0
    return config, folder / 'work' / 'epoch_1.pth'


def test_training_logs_loss_and_accuracy(dense: tuple[Path, Path]):
    _, checkpoint = dense
    logged = scalars(checkpoint.parent)
    losses = [entry['loss'] for entry in logged if 'loss' in entry]
    assert len(losses) == 2  # four images, two at a time
    assert losses[0] == pytest.approx(6.9, abs=0.5)  # log(1000)
    assert 0 <= logged[-1]['accuracy/top1'] <= logged[-1]['accuracy/top5'] <= 100
    keys = torch.load(checkpoint, weights_only=False)['state_dict']
    assert {'backbone.cls_token', 'head.fc.weight'} <= keys.keys()


def test_pruned_model_starts_from_the_dense_one_and_is_tested(
    dense: tuple[Path, Path], data: Path, tool: Tool, tmp_path: Path
):
    _, checkpoint = dense
    config = write_config(tmp_path / 'tiny_cls.py', 'vim/vim-t-flops11-finetune_8xb64-30e_in1k', data, PRUNING)
    work = tmp_path / 'work'
    assert tool('train.py', config, '--work-dir', work, '--cfg-options', f'load_from={checkpoint}') == 0
    out, drawn = tmp_path / 'predictions.pkl', tmp_path / 'drawn'
    args = (config, work / 'epoch_1.pth', '--work-dir', tmp_path / 'test', '--out', out, '--show-dir', drawn)
    assert tool('test.py', *args) == 0
    predictions = pickle.loads(out.read_bytes())
    assert [sample['pred_score'].shape for sample in predictions] == [(1000,)] * 3
    assert len(list(drawn.glob('*.png'))) == 3
    metrics = json.loads(next((tmp_path / 'test').glob('*/*.json')).read_text())
    assert 0 <= metrics['accuracy/top1'] <= 100
    assert tool('test.py', *args, '--cfg-options', 'model.backbone.pruning.keep_ratio=1.0') == 0
    unpruned = pickle.loads(out.read_bytes())
    assert any((a['pred_score'] != b['pred_score']).any() for a, b in zip(predictions, unpruned, strict=True))


def last_line(capfd: pytest.CaptureFixture) -> str:
    err = capfd.readouterr().err
    assert 'Traceback' not in err
    (line,) = [line for line in err.splitlines() if line.startswith('error: ')]
    return line


def test_bad_input_ends_with_a_sentence(
    dense: tuple[Path, Path], tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    config, checkpoint = dense
    for args, told in (
        (('--out', 'predictions.txt'), 'of a classification config is a pickle file'),
        (('--cfg-options', 'model.backbone.if_cls_token=False'), 'needs a class token'),
        (('--cfg-options', 'model.backbone.out_type=mean'), "out_type is 'mean'"),
        (('--cfg-options', 'test_dataloader.dataset.data_root=/nowhere'), '/nowhere'),
    ):
        assert tool('test.py', config, checkpoint, '--work-dir', tmp_path, *args) == 2
        assert told in last_line(capfd)


def test_without_mmpretrain_a_sentence_says_what_to_install(
    tool: Tool, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    assert tool('train.py', REPO / 'configs/vim/vim-t_8xb128_in1k.py') == 2
    sentence = last_line(capfd)
    assert 'needs mmpretrain 1.0 or later but older than 2.0, which is not installed' in sentence
    assert 'install onedl-mmpretrain (requirements/classification.txt)' in sentence
