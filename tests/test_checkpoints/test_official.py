"""Official checkpoints to ours and back: every family, size and task; what is refused; what is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine_state import forget_earlier_runs
from official_files import (
    draw,
    january_names,
    names_of_files,
    official_file,
    one_file_weights,
    save_official,
    shapes_of,
)
from tiny_backbones import VMAMBA_ARCH, make

from mmssmprune.checkpoints.keys import compare_state_dict
from mmssmprune.checkpoints.loading import load_checkpoint_strict
from mmssmprune.checkpoints.official import (
    ConversionReport,
    convert_to_official,
    convert_to_ours,
    write_converted,
)
from mmssmprune.checkpoints.official.layouts import published_model, recognise_architecture
from mmssmprune.checkpoints.reading import read_checkpoint
from mmssmprune.checkpoints.writing import check_destination
from mmssmprune.engine.runner import _CheckStateDictHook
from mmssmprune.models import PlainMamba, PlainMambaAdapter, Vim, VMamba

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
MASK_RCNN = 'plain_mamba/plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'
RETINANET = 'plain_mamba/plain-mamba-adapter-l1_retinanet_8xb2-1x_coco.py'
UPERNET = 'plain_mamba/plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'


def report(direction: str = 'official to mmssmprune') -> ConversionReport:
    return ConversionReport('a.pth', '0' * 64, direction)


def build(config: str, scope: str | None = None) -> torch.nn.Module:
    forget_earlier_runs()
    cfg = Config.fromfile(CONFIGS / config)
    init_default_scope(scope or cfg.default_scope)
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


def through_a_file(path: Path, small: bool) -> Callable[[dict], dict]:
    """Write and read; the large models stay in memory, since hundreds of megabytes through the disk show no more."""

    def write_and_read(content: dict) -> dict:
        save_official(content, path)
        return read_checkpoint(str(path))

    return write_and_read if small else lambda content: content


@pytest.mark.parametrize('name', names_of_files())
def test_there_and_back_is_exact(tmp_path: Path, name: str):
    content = official_file(name)
    container = 'model' if 'model' in content else 'state_dict'
    through_file = through_a_file(tmp_path / 'a.pth', small=name.endswith(('_l1', '_tiny', '_tiny_s1l8')))

    there = report()
    ours = convert_to_ours(through_file(content), there)
    assert {*there.kept, *there.renamed, *there.dropped} == set(content[container])
    assert len(there.kept) + len(there.renamed) + len(there.dropped) == len(content[container])
    assert len(ours) == there.used + len(there.added)
    backbone = {k.removeprefix('backbone.'): v for k, v in ours.items() if k.startswith('backbone.')}
    assert not compare_state_dict(published_model(recognise_architecture(backbone), backbone)['backbone'], backbone)

    back = report('mmssmprune to official')
    official = convert_to_official(through_file({'state_dict': ours}), back)
    assert list(official) == [container]
    assert same(official[container], {k: v for k, v in content[container].items() if k not in there.dropped})
    assert set(back.dropped) == set(there.added)

    assert same(convert_to_ours(through_file(official), report()), ours)


@pytest.mark.parametrize('kind', ['vim_cls', 'vim_seg', 'plain_mamba', 'adapter'])
def test_a_pruned_model_of_ours_leaves_only_its_pruning_behind(kind: str):
    pruned = make(kind, pruning=dict(layers=[1], keep_ratio=0.5, restoration='mask_token'))
    weights = {f'backbone.{k}': v for k, v in pruned.state_dict().items()}
    back = report('mmssmprune to official')
    ((container, official),) = convert_to_official({'state_dict': weights}, back).items()
    assert back.dropped
    assert set(back.dropped) == {k for k in weights if 'pruner' in k}
    assert container == ('model' if kind == 'vim_cls' else 'state_dict')
    dense = make(kind).state_dict()
    assert {k.removeprefix('backbone.') for k in official} == set(dense)


@pytest.mark.parametrize(
    ('name', 'heads', 'config', 'scope'),
    [
        ('plain_mamba_adapter_l1', 'mask_rcnn', MASK_RCNN, 'mmdet'),
        ('plain_mamba_adapter_l1', 'retinanet', RETINANET, 'mmdet'),
        ('plain_mamba_seg_l1', '', UPERNET, 'mmseg'),
        ('vim_seg_tiny', '', '_base_/models/upernet_vim.py', 'mmseg'),
        ('plain_mamba_l1', '', '_base_/models/plain_mamba_cls.py', 'mmpretrain'),
        ('vim_tiny', '', '_base_/models/vim_cls.py', 'mmpretrain'),
        ('vmamba_det_tiny_s1l8', '', 'vmamba/vmamba-t_mask-rcnn_8xb2-1x_coco.py', 'mmdet'),
        ('vmamba_seg_tiny_s1l8', '', 'vmamba/vmamba-t_upernet_8xb2-160k_ade20k-512x512.py', 'mmseg'),
        ('vmamba_tiny_s1l8', '', '_base_/models/vmamba_cls.py', 'mmpretrain'),
    ],
)
def test_whole_models_load_strictly_into_their_config(tmp_path: Path, name: str, heads: str, config: str, scope: str):
    pytest.importorskip(scope)
    content, model = official_file(name, heads), build(config, scope)
    done = report()
    ours = convert_to_ours(content, done, model)
    assert not (done.absent or done.added or done.adapted)
    assert all('rope' in key for key in done.dropped)
    assert ours.keys() == model.state_dict().keys()
    write_converted({'state_dict': ours}, done, tmp_path / 'b.pth')
    meta = load_checkpoint_strict(model, str(tmp_path / 'b.pth'))['meta']
    (official,) = convert_to_official(model.state_dict(), report('mmssmprune to official')).values()
    weights = content.get('state_dict') or content['model']
    assert same(official, {k: v for k, v in weights.items() if k not in done.dropped})
    assert (meta['source'], meta['source_sha256'], meta['converter_version']) == ('a.pth', '0' * 64, 1)


def test_a_classifier_into_the_config_of_a_segmentor_is_a_backbone():
    model = build(UPERNET)
    done = report()
    ours = convert_to_ours(official_file('plain_mamba_l1'), done, model)
    assert set(done.dropped) == {'head.fc.weight', 'head.fc.bias'}
    assert all(key.startswith('backbone.') for key in ours)
    assert done.absent[:2] == ['decode_head', 'auxiliary_head']
    assert {key.split('.')[1] for key in done.absent[2:]} == {'norm_layer5', 'norm_layer11', 'norm_layer17'}


def test_vims_detector_gives_backbone_and_pyramid():
    model = build('_base_/models/cascade_mask_rcnn_vim.py', 'mmdet')
    content, done = official_file('vim_det_tiny'), report()
    ours = convert_to_ours(content, done, model)
    assert {k for k in done.dropped if 'rope' not in k} == {
        k for k in content['model'] if not k.startswith('backbone.')
    }
    assert {k for k in model.state_dict() if k.startswith(('backbone.', 'neck.'))} == set(ours)
    assert done.absent == ['rpn_head', 'roi_head']
    assert torch.equal(ours['neck.simfp_2.4.norm.bias'], content['model']['backbone.simfp_2.4.norm.bias'])
    assert len(done.cautions) == 2


def test_positions_and_class_token_are_fitted_to_the_config():
    content = official_file('vim_tiny')
    taps = dict(if_cls_token=False, with_fpn=True, out_indices=(5, 11, 17, 23), norm_cfg=dict(type='BN'))
    model = torch.nn.ModuleDict({'backbone': Vim('tiny', img_size=512, **taps)})
    done = report()
    ours = convert_to_ours(content, done, model)
    assert ours['backbone.pos_embed'].shape == (1, 1024, 192)
    assert list(done.adapted) == ['backbone.pos_embed']
    assert {'cls_token', 'head.weight', 'head.bias', 'rope.freqs_cos', 'rope.freqs_sin'} == set(done.dropped)
    assert any('rope' in sentence for sentence in done.cautions)
    assert all(key.startswith('backbone.fpn') for key in done.absent)


def test_pretrained_takes_what_was_converted(tmp_path: Path):
    for name, models in {
        'plain_mamba_l1': [
            lambda init: PlainMamba('L1', out_indices=(5, 11, 17, 23), init_cfg=init),
            lambda init: PlainMambaAdapter('L1', init_cfg=init),
        ],
        'vim_tiny': [lambda init: Vim('tiny', img_size=512, if_cls_token=False, init_cfg=init)],
    }.items():
        done = report()
        write_converted({'state_dict': convert_to_ours(official_file(name), done)}, done, tmp_path / 'c.pth')
        for make_model in models:
            model = make_model(dict(type='Pretrained', checkpoint=str(tmp_path / 'c.pth'), prefix='backbone.'))
            model.init_weights()
            key = 'layers.23.norm.weight'
            assert torch.equal(model.state_dict()[key], draw(shapes_of(name))[f'{"backbone." * (name[0] == "p")}{key}'])


@pytest.mark.parametrize('name', ['vmamba_vanilla_tiny', 'vmamba_tiny_s1l8', 'vmamba_det_tiny_s1l8'])
@pytest.mark.parametrize('age', ['January 2024', 'one file'])
def test_vmamba_of_any_age_has_the_names_of_today(name: str, age: str):
    content = official_file(name)
    container = 'model' if 'model' in content else 'state_dict'
    weights = content[container]
    if age == 'one file':
        older = one_file_weights(weights)
    else:
        older = {january_names(key): value for key, value in weights.items()}
    assert older.keys() != weights.keys()
    done = report()
    assert same(convert_to_ours({container: older}, done), convert_to_ours(content, report()))
    assert {*done.kept, *done.renamed} == set(older)
    assert not done.dropped
    assert bool(done.adapted) == (age == 'one file')
    with pytest.raises(ValueError, match='holds two keys for backbone'):
        convert_to_ours({container: {**weights, **older}}, report())


def test_vmambas_classifier_into_a_detector_leaves_its_norm_and_head():
    content = official_file('vmamba_tiny_s1l8')
    done = report()
    ours = convert_to_ours(content, done, torch.nn.ModuleDict({'backbone': VMamba('tiny')}))
    assert set(done.dropped) == {k for k in content['model'] if k.startswith('classifier.')}
    assert done.absent == [f'backbone.outnorm{i}.{name}' for i in range(4) for name in ('weight', 'bias')]
    assert len(ours) == len(content['model']) - 4


def test_load_from_takes_an_official_classifier():
    """As the configs that fine-tune a released VMamba name it."""
    vector = VMamba(VMAMBA_ARCH, out_indices=-1, out_type='avg_featmap', pruning=dict(layers=[0], keep_ratio=0.5))
    head = torch.nn.ModuleDict({'fc': torch.nn.Linear(64, 10)})
    model = torch.nn.ModuleDict({'backbone': vector, 'head': head})
    weights = {k.replace('outnorm3', 'classifier.norm'): torch.randn_like(v) for k, v in vector.state_dict().items()}
    weights |= {'classifier.head.weight': torch.randn(10, 64), 'classifier.head.bias': torch.randn(10)}
    checkpoint = dict(model=weights, epoch=264)
    loading = dict(checkpoint_being_loaded='a.pth', _train_loop=None, _resume=False, _resumes=None)
    _CheckStateDictHook().after_load_checkpoint(SimpleNamespace(model=model, **loading), checkpoint)
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert torch.equal(model['head']['fc'].weight, weights['classifier.head.weight'])
    assert torch.equal(vector.outnorm3.bias, weights['classifier.norm.bias'])


def test_other_architectures_are_refused_by_name():
    content = official_file('plain_mamba_l2')
    with pytest.raises(ValueError, match=r'looks like PlainMamba L2 \(384 channels, 24 layers\), not like plain_m'):
        convert_to_ours(content, report(), expected='plain_mamba_l1')
    with pytest.raises(ValueError, match=r'PlainMamba L2 .* but the config builds PlainMamba L1'):
        convert_to_ours(content, report(), build(UPERNET))
    with pytest.raises(ValueError, match=r'Vim tiny .* but the config builds PlainMamba L1'):
        convert_to_ours(official_file('vim_tiny'), report(), build(UPERNET))
    with pytest.raises(ValueError, match=r'does not fit the config: .*missing in it \(neck'):
        convert_to_ours(official_file('plain_mamba_adapter_l1', 'mask_rcnn'), report(), build(RETINANET))
    tiny = torch.nn.ModuleDict({'backbone': VMamba('tiny')})
    with pytest.raises(
        ValueError, match=r'VMamba t\[s2l5\] \(96 channels, blocks 2-2-5-2, ssm_ratio 2\), but .*T\[s1l8\]'
    ):
        convert_to_ours(official_file('vmamba_tiny_s2l5'), report(), tiny)
    assert convert_to_ours(official_file('vmamba_tiny_s2l5'), report(), expected='vmamba_t_s2l5')


def test_what_is_no_official_checkpoint_is_refused():
    weights = official_file('plain_mamba_l1')['state_dict']
    lacking = {k: v for k, v in weights.items() if 'layers.7.mamba.D' not in k}
    longer = {**weights, 'backbone.pos_embed': torch.zeros(1, 196, 193)}
    other = {**weights, 'backbone.layers.3.attention.weight': torch.zeros(2)}
    unknown_size = {k: v for k, v in weights.items() if not k.startswith('backbone.layers.23.')}
    one_way = {k: v for k, v in official_file('vim_tiny')['model'].items() if 'A_b_log' not in k}
    for content, message in [
        ({'state_dict': lacking}, 'looks like PlainMamba L1 .* not the published one: 1 key missing'),
        ({'state_dict': longer}, r'pos_embed is \(1, 196, 193\) instead of \(1, 196, 192\)'),
        ({'state_dict': other}, '1 key unknown to the model'),
        ({'state_dict': unknown_size}, r'of no published size \(192 channels, 23 layers\); give --config'),
        ({'model': one_way}, 'both directions in one block'),
        (
            {'state_dict': {'conv1.weight': torch.zeros(2)}},
            'neither PlainMamba nor Vim weights, nor VMamba .*found conv1.weight',
        ),
        ({'state_dict': {}}, 'it is empty'),
        ({'epoch': 3}, "'epoch' is a int"),
        ([1, 2], 'holds a list'),
    ]:
        with pytest.raises(ValueError, match=message):
            convert_to_ours(content, report())
    with pytest.raises(ValueError, match='no weights of this package'):
        convert_to_official(official_file('vim_tiny'), report())


def test_weights_of_ddp_lose_their_prefix():
    weights = official_file('plain_mamba_l1')['state_dict']
    assert same(
        convert_to_ours({'state_dict': {f'module.{k}': v for k, v in weights.items()}}, report()),
        convert_to_ours({'state_dict': weights}, report()),
    )


def test_nothing_is_written_over(tmp_path: Path):
    source, destination = tmp_path / 'a.pth', tmp_path / 'b.pth'
    source.touch()
    check_destination(source, destination, force=False)
    destination.touch()
    with pytest.raises(ValueError, match='exists; give another name, or --force'):
        check_destination(source, destination, force=False)
    check_destination(source, destination, force=True)
    for wrong in (source, tmp_path):
        with pytest.raises(ValueError, match='give'):
            check_destination(source, wrong, force=True)
