from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmssmprune.analysis.comparison.entries import find_entries
from mmssmprune.analysis.comparison.measure import MeasureSetting, config_keep_ratio

CONFIG = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='PlainMamba', arch='L1', pruning={pruning},
                  init_cfg=dict(type='Pretrained', checkpoint='l1.pth')),
    decode_head=dict(type='FCNHead', init_cfg=dict(type='Normal', std=0.01)))
test_dataloader = dict(dataset=dict(
    type='ADE20KDataset', data_root={root!r}, data_prefix=dict(img_path='images', seg_map_path='labels')))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict()
max_iters = 10
"""
PRUNING = "dict(layers=[5], keep_ratio=0.7, importance='clip')"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with data/, dense.py, pruned.py and weights.pth."""
    monkeypatch.chdir(tmp_path)
    for folder in ('images', 'labels'):
        (tmp_path / 'data' / folder).mkdir(parents=True)
        (tmp_path / 'data' / folder / '0.png').write_bytes(b'123')
    for name, pruning in (('dense', None), ('pruned', PRUNING)):
        Path(f'{name}.py').write_text(CONFIG.format(pruning=pruning, root='data'))
    torch.save({'state_dict': {'x': torch.zeros(1)}}, 'weights.pth')
    return tmp_path


def make_work_dir(work_dir: Path, config: str) -> None:
    work_dir.mkdir(parents=True)
    (work_dir / Path(config).name).write_text(Path(config).read_text())
    torch.save({'state_dict': {}}, work_dir / 'iter_10.pth')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_10.pth'))


def test_pair_config_and_work_dir(place: Path):
    make_work_dir(place / 'work_dirs' / 'dense', 'dense.py')
    make_work_dir(place / 'elsewhere', 'pruned.py')
    pair, config, folder = find_entries(['pruned.py:weights.pth', 'dense.py', 'elsewhere'])
    assert pair.checkpoint == Path('weights.pth')
    assert config.checkpoint.resolve() == place / 'work_dirs/dense/iter_10.pth'
    assert folder.checkpoint == place / 'elsewhere/iter_10.pth'
    assert config.name == 'dense'
    # twice the same name: the checkpoint tells them apart
    assert (pair.name, folder.name) == ('pruned (weights)', 'pruned (elsewhere/iter_10)')
    assert (config.pruning, config.keep_ratio, pair.keep_ratio) == (None, 1.0, 0.7)


def test_a_plan_with_a_target_has_its_solved_keep_ratio(place: Path):
    r = 0.6  # (1 + 3 r) / 4 = 0.7
    Path('target.py').write_text(CONFIG.format(pruning='dict(tokens=0.7, layers=[5])', root='data'))
    target, pruned, dense = find_entries([f'{name}.py:weights.pth' for name in ('target', 'pruned', 'dense')])
    assert target.keep_ratio is None
    setting = MeasureSetting(place / 'compare')
    assert [config_keep_ratio(entry, setting) for entry in (target, pruned, dense)] == [r, 0.7, 1.0]
    (stored,) = (place / 'compare/results').iterdir()
    before = stored.stat().st_mtime_ns
    assert config_keep_ratio(target, setting) == r
    assert stored.stat().st_mtime_ns == before
    assert target.dense_model_hash == dense.dense_model_hash
    assert (
        target.model_hash
        != find_entries(['target.py:weights.pth'], {'model.backbone.pruning.tokens': 0.6})[0].model_hash
    )


def test_hashes_follow_what_decides_a_test(place: Path):
    def entry(name: str = 'pruned', **options):
        return find_entries([f'{name}.py:weights.pth'], options)[0]

    base = entry()
    assert base.config_hash == entry(max_iters=20).config_hash
    assert base.config_hash != entry(**{'model.backbone.arch': 'L2'}).config_hash
    assert base.config_hash != entry(**{'test_evaluator.iou_metrics': ['mIoU', 'mDice']}).config_hash
    assert base.dense_model_hash == entry('dense').dense_model_hash
    assert base.dense_model_hash == entry(**{'model.backbone.init_cfg.checkpoint': 'x.pth'}).dense_model_hash
    assert base.dense_model_hash != entry('dense', **{'model.backbone.arch': 'L2'}).dense_model_hash
    weights = base.checkpoint_hash
    torch.save({'state_dict': {'x': torch.ones(1)}}, 'weights.pth')
    assert entry().checkpoint_hash != weights
    data = base.data_hash
    assert entry().data_hash == data
    (place / 'data/labels/0.png').write_bytes(b'1234')
    assert entry().data_hash != data


def test_untrained_has_no_pretrained_weights(place: Path):
    (entry,) = find_entries(['dense.py:weights.pth'])
    untrained = entry.untrained()
    assert untrained.checkpoint is None
    assert untrained.cfg.model.backbone.init_cfg is None
    assert untrained.cfg.model.decode_head.init_cfg.type == 'Normal'
    assert entry.cfg.model.backbone.init_cfg.type == 'Pretrained'
    assert untrained.checkpoint_hash != entry.checkpoint_hash


def test_a_config_without_checkpoint_is_not_run(place: Path):
    (place / 'work_dirs').mkdir()
    dense, again, untrained = (find_entries([f'{name}.py'])[0] for name in ('dense', 'pruned', 'dense'))
    assert (dense.weights, dense.checkpoint, dense.checkpoint_hash) == ('none', None, None)
    assert again.weights == 'none'
    untrained = untrained.untrained()
    assert (untrained.weights, untrained.checkpoint_hash) == ('random', 'untrained, seed 0')
    make_work_dir(place / 'work_dirs' / 'dense', 'dense.py')
    assert find_entries(['dense.py'])[0].weights == 'checkpoint'
    # twice the same config: the folder tells them apart
    one, two = find_entries(['pruned.py', str(place / 'pruned.py')])
    assert one.name == 'pruned (pruned)' and two.name.endswith(f'({place.name}/pruned)')


@pytest.mark.parametrize(
    ('backbone', 'family'),
    [
        ({'type': 'PlainMamba', 'arch': 'L2'}, 'PlainMamba-L2'),
        ({'type': 'mmdet.Vim', 'arch': 'small'}, 'Vim-S'),
        ({'type': 'Vim', 'arch': 't'}, 'Vim-T'),
        ({'type': 'Vim', 'arch': {'embed_dims': 8}}, 'Vim'),
        ({'type': 'ResNet', 'depth': 50}, 'ResNet'),
    ],
)
def test_family(place: Path, backbone: dict, family: str):
    (entry,) = find_entries(['dense.py'], {'model.backbone': {**backbone, '_delete_': True}})
    assert entry.family == family


def test_training(place: Path):
    options = {'train_cfg': {'max_iters': 10}, 'custom_hooks': [{'type': 'ElasticKeepRatioHook', 'keep_ratios': [1]}]}
    (entry,) = find_entries(['dense.py'], options)
    assert entry.training == {'iterations': 10, 'hooks': ['ElasticKeepRatioHook']}
    assert find_entries(['dense.py'])[0].training == {'hooks': []}


def test_seed_and_iteration_are_those_of_the_checkpoint(place: Path):
    def trained(meta: Any) -> dict[str, int | None]:
        torch.save({'state_dict': {}, 'meta': meta}, 'weights.pth')
        return find_entries(['dense.py:weights.pth'])[0].trained

    assert trained({'seed': 3, 'iter': 900, 'epoch': 0}) == {'seed': 3, 'iteration': 900}
    assert trained({'seed': None, 'iter': -1}) == trained({'seed': True}) == {'seed': None, 'iteration': None}
    assert trained({}) == {'seed': None, 'iteration': None} and trained('none') == {}
    assert find_entries(['dense.py'])[0].trained == {}


def test_schedules(place: Path):
    def schedule(**options: Any) -> str:
        return find_entries(['dense.py'], options)[0].schedule_hash

    base = schedule()
    assert base == schedule(**{'randomness': {'seed': 1}, 'work_dir': 'seed1', 'train_cfg': {'val_interval': 10}})
    assert base != schedule(**{'optim_wrapper': {'optimizer': {'lr': 1e-3}}})
    from_dense = schedule(load_from='a.pth')
    assert base != from_dense == schedule(load_from='b.pth')  # each seed from the dense model of its own


def test_configs_that_packages_bring():
    swin = 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
    (entry,) = find_entries([f'mmseg::{swin}'])
    assert entry.config_path.is_file() and (entry.family, entry.weights) == ('SwinTransformer', 'none')


BAD = {
    'a config that no package brings': ('mmseg::swin/none.py', FileNotFoundError, 'swin/none.py does not exist'),
    'no package of ours': ('torch::x.py', FileNotFoundError, 'before :: stands one of mmdet, mmseg, mmpretrain'),
    'nothing there': ('nowhere', FileNotFoundError, 'neither a work_dir, nor a config'),
    'no such config': ('nowhere.py', FileNotFoundError, 'config nowhere.py does not exist'),
    'no such config in a pair': ('nowhere.py:weights.pth', FileNotFoundError, 'config nowhere.py does not exist'),
    'no such checkpoint': ('dense.py:none.pth', FileNotFoundError, 'checkpoint none.pth does not exist'),
    'not a checkpoint': ('dense.py:dense.py', ValueError, 'no file that torch.save wrote'),
    'nothing trained in a work_dir': ('empty', FileNotFoundError, 'no checkpoint in the work_dir empty'),
    'no config in the work_dir': ('data', ValueError, 'should hold one config'),
    'no test set': ('bare.py:weights.pth', ValueError, 'has no test_dataloader'),
}


@pytest.mark.parametrize('case', BAD.values(), ids=BAD.keys())
def test_bad_targets(case, place: Path):
    target, kind, told = case
    Path('empty').mkdir()
    Path('empty/dense.py').write_text(Path('dense.py').read_text())
    Path('bare.py').write_text("default_scope = 'mmseg'\nmodel = dict(backbone=dict())")
    with pytest.raises(kind, match=told):
        find_entries([target])


def test_missing_data_is_named(place: Path):
    (entry,) = find_entries(['dense.py:weights.pth'], {'test_dataloader.dataset.data_prefix.seg_map_path': 'gone'})
    with pytest.raises(FileNotFoundError, match='data/gone, which does not exist'):
        _ = entry.data_hash


def test_data_hash_sees_the_labels_that_imagenet_finds_by_itself(place: Path):
    labels = place / 'data' / 'meta' / 'val.txt'
    labels.parent.mkdir()
    (place / 'data' / 'val').mkdir()
    split = "type='ImageNet', data_root='data', split='val', data_prefix=dict(img_path='val')"
    text = CONFIG.format(pruning=None, root='data')
    start, end = text.index("type='ADE20KDataset'"), text.index('))\ntest_evaluator')
    Path('imagenet.py').write_text(text[:start] + split + text[end:])
    hashes = []
    for content in ('a.JPEG 0', 'a.JPEG 1'):
        labels.write_text(content)
        hashes.append(find_entries(['imagenet.py'])[0].data_hash)
    assert hashes[0] != hashes[1]
