"""tools/train.py and tools/test.py on tiny real data: what they write, and how bad input ends."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import DET_CONFIG, PRUNING, REPO, SEG_CONFIG, scalars, write_config

Tool = Callable[..., int]


@pytest.fixture(scope='module')
def seg_run(seg_data: Path, tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config and the checkpoint of four training iterations with it."""
    folder = tmp_path_factory.mktemp('seg_run')
    config = write_config(folder / 'tiny_seg_base.py', SEG_CONFIG, seg_data, pruning=PRUNING)
    assert tool('train.py', config, '--work-dir', folder / 'work') == 0
    return config, folder / 'work' / 'iter_4.pth'


def test_seg_train_leaves_a_whole_checkpoint(seg_run: tuple[Path, Path]):
    _, checkpoint = seg_run
    work_dir = checkpoint.parent
    assert torch.load(checkpoint, weights_only=False)['meta']['iter'] == 4
    assert (work_dir / 'last_checkpoint').read_text() == str(checkpoint)
    assert (work_dir / 'tiny_seg_base.py').is_file()
    assert not list(work_dir.glob('*.part'))


def test_seg_test_writes_label_maps_and_miou(seg_run: tuple[Path, Path], tool: Tool, tmp_path: Path):
    config, checkpoint = seg_run
    args = (config, checkpoint, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'maps')
    assert tool('test.py', *args, '--show-dir', tmp_path / 'drawn') == 0
    maps = sorted((tmp_path / 'maps').glob('*.png'))
    assert [path.name for path in maps] == ['0.png', '1.png', '2.png', '3.png']
    assert np.asarray(Image.open(maps[0])).max() <= 2
    assert len(list((tmp_path / 'drawn').rglob('*.png'))) == 4
    metrics = json.loads(next((tmp_path / 'work').glob('*/*.json')).read_text())
    assert 0 <= metrics['mIoU'] <= 100


def test_one_checkpoint_at_other_keep_ratios(seg_run: tuple[Path, Path], tool: Tool, tmp_path: Path):
    config, checkpoint = seg_run
    for ratio in (1.0, 0.3):
        option = f'model.backbone.pruning.keep_ratio={ratio}'
        args = (config, checkpoint, '--work-dir', tmp_path, '--out', tmp_path / str(ratio), '--cfg-options', option)
        assert tool('test.py', *args) == 0
    maps = [np.asarray(Image.open(tmp_path / ratio / '0.png')) for ratio in ('1.0', '0.3')]
    assert (maps[0] != maps[1]).any()


def test_one_checkpoint_with_another_img_size(seg_run: tuple[Path, Path], tool: Tool, tmp_path: Path, capsys):
    """Two short runs of a tool: a test and a training start from the resized embedding, a resumed one may not."""
    config, checkpoint = seg_run
    options = ('--work-dir', tmp_path, '--cfg-options', 'model.backbone.img_size=(64,160)')
    assert tool('test.py', config, checkpoint, *options) == 0
    assert tool('train.py', config, *options, f'load_from={checkpoint}') == 0
    trained = torch.load(tmp_path / 'iter_4.pth', weights_only=False)['state_dict']
    assert trained['backbone.pos_embed'].shape[1] == 4 * 10
    assert trained._metadata['backbone']['pos_hw'] == (4, 10)
    assert tool('train.py', config, *options, '--resume', checkpoint) == 2
    assert 'a training resumes at its own img_size' in capsys.readouterr().err


def test_det_train_and_test_with_pickle_and_tta(det_data: Path, tool: Tool, tmp_path: Path):
    config = write_config(tmp_path / 'tiny_det.py', DET_CONFIG, det_data, pruning=PRUNING)
    work = tmp_path / 'work'
    assert tool('train.py', config, '--work-dir', work) == 0
    out = tmp_path / 'new folder' / 'predictions.pkl'
    drawn = tmp_path / 'drawn'
    args = (config, work / 'iter_4.pth', '--work-dir', work)
    assert tool('test.py', *args, '--out', out, '--show-dir', drawn) == 0
    predictions = pickle.loads(out.read_bytes())
    assert sorted(sample['img_id'] for sample in predictions) == [0, 1]
    assert all(sample['pred_instances']['bboxes'].shape[1] == 4 for sample in predictions)
    assert [path.name for path in out.parent.iterdir()] == ['predictions.pkl']
    assert len(list(drawn.iterdir())) == 2
    assert tool('test.py', *args, '--tta') == 0


def test_default_work_dir_is_named_after_the_config(
    seg_run: tuple[Path, Path], tool: Tool, tmp_path: Path, monkeypatch
):
    config, checkpoint = seg_run
    monkeypatch.chdir(tmp_path)
    assert tool('test.py', config, checkpoint) == 0
    assert list((tmp_path / 'work_dirs' / 'tiny_seg_base').iterdir())


def test_auto_scale_lr_scales_by_batch_size(seg_data: Path, tool: Tool, tmp_path: Path):
    config = write_config(tmp_path / 'tiny_seg_scaled.py', SEG_CONFIG, seg_data, iters=5, interval=5)
    options = ('--auto-scale-lr', '--cfg-options', 'auto_scale_lr.base_batch_size=8', 'param_scheduler=[]')
    assert tool('train.py', config, '--work-dir', tmp_path / 'work', *options) == 0
    logged = {entry['lr'] for entry in scalars(tmp_path / 'work') if 'lr' in entry}
    assert len(logged) == 1
    assert logged.pop() == pytest.approx(3e-3 * 2 / 8)


def test_load_from_may_bring_another_head_but_not_another_backbone(
    seg_run: tuple[Path, Path], seg_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    _, checkpoint = seg_run
    config = write_config(tmp_path / 'tiny_seg_tuned.py', SEG_CONFIG, seg_data)
    start = f'load_from={checkpoint}'
    args = (config, '--work-dir', tmp_path / 'work', '--cfg-options', start)
    assert tool('train.py', *args, 'model.decode_head.channels=8') == 0
    wider = write_config(tmp_path / 'tiny_seg_wider.py', SEG_CONFIG, seg_data, width=48)
    assert tool('train.py', wider, *args[1:]) == 2
    assert 'is of another architecture' in last_line(capfd)


def last_line(capfd: pytest.CaptureFixture) -> str:
    """The one line on stderr that tells the error; fails if there is a traceback."""
    err = capfd.readouterr().err
    assert 'Traceback' not in err
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1
    return lines[0]


BAD_TRAINING = {
    'keep_ratio of 0': (['--cfg-options', 'model.backbone.pruning.keep_ratio=0'], 'keep_ratio'),
    'keep_ratio of 1.5': (['--cfg-options', 'model.backbone.pruning.keep_ratio=1.5'], 'keep_ratio'),
    'keep_ratio of a letter': (['--cfg-options', 'model.backbone.pruning.keep_ratio=a'], 'keep_ratio'),
    'a prune layer beyond the depth': (['--cfg-options', 'model.backbone.pruning.layers=[1,9]'], '9'),
    'an unknown argument': (['--cfg-options', 'model.backbone.prunning.keep_ratio=0.5'], 'prunning'),
    'an unknown backbone': (['--cfg-options', 'model.backbone.type=PlainMumba'], 'PlainMumba'),
    'an unknown scope': (['--cfg-options', 'default_scope=mmpose'], "'mmdet' or 'mmseg'"),
    'no data': (['--cfg-options', 'train_dataloader.dataset.data_root=/nowhere/data'], '/nowhere/data'),
    'AMP without a GPU': (['--amp'], '--amp needs a GPU'),
    'a launcher that did not launch': (['--launcher', 'pytorch'], 'RANK'),
    'a missing checkpoint to resume': (['--resume', '/nowhere/iter_1.pth'], '/nowhere/iter_1.pth does not exist'),
    'missing pretrained weights': (
        ['--cfg-options', 'model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=l1.pth'],
        'checkpoint l1.pth does not exist; it is named by an init_cfg',
    ),
}


@pytest.mark.parametrize(('options', 'told'), BAD_TRAINING.values(), ids=BAD_TRAINING.keys())
def test_bad_training_input_ends_with_a_sentence(
    options: list[str], told: str, seg_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch
):
    if '--amp' in options and torch.cuda.is_available():
        pytest.skip('a GPU is here')
    monkeypatch.delenv('RANK', raising=False)
    config = write_config(tmp_path / 'tiny_seg_bad.py', SEG_CONFIG, seg_data, pruning=PRUNING)
    assert tool('train.py', config, '--work-dir', tmp_path / 'work', *options) == 2
    assert told in last_line(capfd)
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_image_smaller_than_a_patch_ends_with_a_sentence(
    seg_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    config = write_config(tmp_path / 'tiny_seg_small.py', SEG_CONFIG, seg_data)
    shrink = (
        "\ntrain_dataloader['dataset']['pipeline'] = [pipeline[0], pipeline[1], dict(type='Resize', scale=(8, 8)), "
        "pipeline[2]]\nmodel['data_preprocessor']['size'] = (8, 8)\n"
    )
    config.write_text(config.read_text() + shrink)
    assert tool('train.py', config, '--work-dir', tmp_path / 'work') == 2
    assert 'patch' in last_line(capfd)


def bad_checkpoints(folder: Path, whole: Path) -> dict[str, tuple[Path, str]]:
    content = torch.load(whole, weights_only=False)
    cut = folder / 'cut.pth'
    cut.write_bytes(whole.read_bytes()[:-1000])
    text = folder / 'text.pth'
    text.write_text('weights')
    empty = folder / 'no_weights.pth'
    torch.save({'meta': {}, 'optimizer': {}}, empty)
    deeper = dict(content['state_dict'])
    deeper['backbone.layers.4.norm.weight'] = torch.ones(32)
    torch.save({'state_dict': deeper}, folder / 'deeper.pth')
    headless = {k: v for k, v in content['state_dict'].items() if not k.startswith('decode_head.')}
    torch.save({'state_dict': headless}, folder / 'headless.pth')
    return {
        'missing': (folder / 'none.pth', 'does not exist'),
        'cut short': (cut, 'cut short'),
        'text': (text, 'no file that torch.save wrote'),
        'no weights': (empty, 'holds no model weights'),
        'a layer too many': (folder / 'deeper.pth', 'backbone.layers.4.norm.weight'),
        'no head': (folder / 'headless.pth', 'decode_head.conv_seg.weight'),
    }


def test_bad_checkpoints_end_with_a_sentence(
    seg_run: tuple[Path, Path], seg_data: Path, tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture
):
    config, whole = seg_run
    for path, told in bad_checkpoints(tmp_path, whole).values():
        assert tool('test.py', config, path, '--work-dir', tmp_path / 'work') == 2
        assert told in last_line(capfd)
    wider = write_config(tmp_path / 'tiny_seg_other.py', SEG_CONFIG, seg_data, width=48)
    assert tool('test.py', wider, whole, '--work-dir', tmp_path / 'work') == 2
    sentence = last_line(capfd)
    assert 'backbone.pos_embed is (1, 36, 32) instead of (1, 36, 48)' in sentence


def test_other_bad_test_input(seg_run: tuple[Path, Path], tool: Tool, tmp_path: Path, capfd: pytest.CaptureFixture):
    config, checkpoint = seg_run
    for args, told in (
        ((tmp_path / 'none.py', checkpoint), 'none.py does not exist'),
        ((REPO / 'configs/_base_/schedules/schedule_1x.py', checkpoint), 'has no model'),
        ((config, checkpoint, '--out', 'predictions.pkl'), 'is a folder for label maps'),
        ((config, checkpoint, '--tta'), 'tta_pipeline'),
        ((config, checkpoint, '--cfg-options', 'test_dataloader.dataset.data_root=/nowhere'), '/nowhere'),
    ):
        assert tool('test.py', *args) == 2
        assert told in last_line(capfd)


def test_test_needs_no_training_data(seg_run: tuple[Path, Path], tool: Tool, tmp_path: Path):
    config, checkpoint = seg_run
    option = 'train_dataloader.dataset.data_root=/nowhere'
    assert tool('test.py', config, checkpoint, '--work-dir', tmp_path, '--cfg-options', option) == 0


def test_debug_keeps_the_traceback(tool: Tool, tmp_path: Path, monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_DEBUG', '1')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        tool('train.py', tmp_path / 'none.py')
