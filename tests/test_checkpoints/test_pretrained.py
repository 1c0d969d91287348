"""Loading pretrained weights by key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from official_files import YacsConfig, january_names, official_file, one_file_weights, save_official
from tiny_backbones import PLAIN_ARCH, VIM_ARCH, VMAMBA_ARCH, make

from mmssmprune.checkpoints.loading import load_checkpoint_strict
from mmssmprune.models import PlainMamba, PlainMambaAdapter, Vim, VMamba

VANILLA_ARCH = dict(VMAMBA_ARCH, gated=True, d_state=3, mlp_ratio=0, patch_embed_version='v1', downsample_version='v1')


def classifier_file(tmp_path, backbone, **extra) -> str:
    """A file as the official training writes it: a state_dict with a head, averaged copies, and a prefix."""
    state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    state |= {'head.fc.weight': torch.zeros(10, 24), 'ema_backbone_pos_embed': torch.zeros(1), **extra}
    path = tmp_path / 'classifier.pth'
    torch.save({'state_dict': state, 'meta': {}}, path)
    return str(path)


def pretrained(path: str, prefix: str | None = 'backbone.') -> dict:
    return dict(type='Pretrained', checkpoint=path, prefix=prefix)


def test_classification_weights_into_segmentation_and_detection_models(tmp_path, caplog):
    source = PlainMamba(PLAIN_ARCH, img_size=64)
    path = classifier_file(tmp_path, source)
    for target in (
        PlainMamba(PLAIN_ARCH, img_size=64, out_indices=(0, 1, 2, 3), init_cfg=pretrained(path)),
        PlainMambaAdapter(PLAIN_ARCH, img_size=64, conv_inplane=8, init_cfg=pretrained(path)),
        PlainMamba(PLAIN_ARCH, img_size=64, pruning=dict(layers=[1], keep_ratio=0.5), init_cfg=pretrained(path)),
    ):
        target.init_weights()
        loaded = target.state_dict()
        for key, value in source.state_dict().items():
            if not key.startswith('ln1') or key in loaded:
                assert torch.equal(loaded[key], value), key


def test_position_embedding_is_resized_to_the_grid_of_the_model(tmp_path):
    source = PlainMamba(PLAIN_ARCH, img_size=64)
    target = PlainMamba(PLAIN_ARCH, img_size=(64, 96), init_cfg=pretrained(classifier_file(tmp_path, source)))
    target.init_weights()
    images = torch.randn(1, 3, 64, 96)
    assert torch.allclose(target.eval()(images)[0], source.eval()(images)[0], atol=1e-6)


def test_what_is_left_out_is_logged_by_name(tmp_path):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance('checkpoint_test', log_file=str(tmp_path / 'log.txt'))
    path = classifier_file(tmp_path, PlainMamba(PLAIN_ARCH, img_size=64), **{'backbone.surprise': torch.zeros(1)})
    PlainMamba(PLAIN_ARCH, img_size=64, out_indices=(1, 3), init_cfg=pretrained(path)).init_weights()
    for handler in logger.handlers:
        handler.flush()
    log = (tmp_path / 'log.txt').read_text()
    assert 'not in the model, left out: surprise' in log
    assert 'kept as initialised: norm_layer1.weight, norm_layer1.bias' in log


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        (dict(PLAIN_ARCH, embed_dims=32), r'pos_embed is \(1, 16, 24\) in the file and \(1, 16, 32\) in the model'),
        (dict(PLAIN_ARCH, num_layers=5), r'layers.4.norm.weight is missing'),
        (dict(PLAIN_ARCH, num_convs=2), r'patch_embed.convs.3.weight is missing'),
    ],
)
def test_another_architecture_is_refused_by_name(tmp_path, arch, message):
    path = classifier_file(tmp_path, PlainMamba(PLAIN_ARCH, img_size=64))
    target = PlainMamba(arch, img_size=64, init_cfg=pretrained(path))
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        target.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_wrong_prefix_and_missing_file(tmp_path):
    path = classifier_file(tmp_path, PlainMamba(PLAIN_ARCH, img_size=64))
    with pytest.raises(
        ValueError, match=r"no key of the checkpoint starts with 'encoder.'; its keys look like backbone"
    ):
        PlainMamba(PLAIN_ARCH, img_size=64, init_cfg=pretrained(path, 'encoder')).init_weights()
    with pytest.raises(FileNotFoundError):
        PlainMamba(PLAIN_ARCH, img_size=64, init_cfg=pretrained(str(tmp_path / 'none.pth'))).init_weights()


def vim_file(tmp_path, model: Vim) -> str:
    """Official Vim files keep the weights under 'model', without a prefix; older ones hold rotary tables."""
    path = tmp_path / 'vim.pth'
    state = {**model.state_dict(), 'head.weight': torch.zeros(10, 24), 'rope.freqs_cos': torch.zeros(3)}
    torch.save({'model': state}, path)
    return str(path)


def test_vim_drops_row_zero_of_the_position_embedding_as_the_official_code_does(tmp_path):
    source = make('vim_cls')
    init_cfg = pretrained(vim_file(tmp_path, source), None)
    same = Vim(VIM_ARCH, img_size=64, if_cls_token=False, init_cfg=init_cfg)
    same.init_weights()
    assert torch.equal(same.pos_embed, source.pos_embed[:, 1:])
    larger = Vim(VIM_ARCH, img_size=(64, 96), init_cfg=init_cfg)
    larger.init_weights()
    assert larger.pos_embed.shape == (1, 25, 24)
    assert torch.equal(larger.pos_embed[:, 0], source.pos_embed[:, 0])
    assert torch.equal(larger.cls_token, source.cls_token)


def vmamba_file(tmp_path: Path, weights: dict) -> str:
    save_official(dict(model=weights, config=YacsConfig({})), tmp_path / 'vmamba.pth')
    return str(tmp_path / 'vmamba.pth')


def classifier_weights(source: VMamba) -> dict:
    weights = {k.replace('outnorm3.', 'classifier.norm.'): torch.randn_like(v) for k, v in source.state_dict().items()}
    return weights | {'classifier.head.weight': torch.randn(10, 64), 'classifier.head.bias': torch.zeros(10)}


@pytest.mark.parametrize('arch', [VMAMBA_ARCH, VANILLA_ARCH], ids=['v2', 'vanilla'])
@pytest.mark.parametrize('age', ['today', 'January 2024', 'one file'])
def test_vmambas_classifier_fills_any_backbone(tmp_path, arch, age):
    weights = classifier_weights(VMamba(arch, out_indices=3))
    stored = {january_names(k): v for k, v in weights.items()} if age[0] == 'J' else weights
    path = vmamba_file(tmp_path, one_file_weights(weights) if age == 'one file' else stored)
    dense = VMamba(arch, init_cfg=pretrained(path, None))
    started = {k: v.clone() for k, v in dense.state_dict().items()}
    dense.init_weights()
    for key, value in dense.state_dict().items():
        assert torch.equal(value, started[key] if key.startswith('outnorm') else weights[key]), key
    vector = VMamba(arch, out_type='avg_featmap', out_indices=-1, init_cfg=pretrained(path, None))
    vector.init_weights()
    assert torch.equal(vector.outnorm3.weight, weights['classifier.norm.weight'])


def test_vmambas_detector_of_any_age_loads_strictly(tmp_path):
    source = VMamba(VANILLA_ARCH)
    weights = {k: torch.randn_like(v) for k, v in source.state_dict().items()}
    for stored in (weights, {january_names(k): v for k, v in weights.items()}, one_file_weights(weights)):
        path = tmp_path / 'det.pth'
        torch.save(dict(state_dict={f'backbone.{k}': v for k, v in stored.items()}, meta={}), path)
        target = VMamba(VANILLA_ARCH, init_cfg=pretrained(str(path)))
        target.init_weights()
        other = torch.nn.ModuleDict({'backbone': VMamba(VANILLA_ARCH)})
        other.load_state_dict({f'backbone.{k}': v for k, v in stored.items()}, strict=True)
        whole = torch.nn.ModuleDict({'backbone': VMamba(VANILLA_ARCH)})
        load_checkpoint_strict(whole, str(path))
        for state in (target.state_dict(), other['backbone'].state_dict(), whole['backbone'].state_dict()):
            assert all(torch.equal(state[k], v) for k, v in weights.items())


def test_nothing_of_vmamba_is_swallowed(tmp_path):
    weights = classifier_weights(VMamba(VMAMBA_ARCH, out_indices=3))
    lacking = {k: v for k, v in weights.items() if k != 'layers.2.blocks.0.mlp.fc1.weight'}
    stranger = {**weights, 'layers.0.blocks.0.op.gate': torch.zeros(1)}
    for stored, sentence in (
        (lacking, r'layers\.2\.blocks\.0\.mlp\.fc1\.weight is missing \(1 in all\)'),
        (stranger, r'it holds layers\.0\.blocks\.0\.op\.gate \(1 in all\), unknown to the model'),
    ):
        with pytest.raises(ValueError, match=sentence):
            VMamba(VMAMBA_ARCH, init_cfg=pretrained(vmamba_file(tmp_path, stored), None)).init_weights()
    for path in ('', str(tmp_path / 'none.pth')):
        with pytest.raises(FileNotFoundError):
            VMamba(VMAMBA_ARCH, init_cfg=pretrained(path, None)).init_weights()


def test_a_wrong_size_of_vmamba_names_both_variants(tmp_path):
    path = vmamba_file(tmp_path, official_file('vmamba_tiny_s2l5')['model'])
    with pytest.raises(ValueError, match='does not fit this VMamba') as caught:
        VMamba('tiny', init_cfg=pretrained(path, None)).init_weights()
    sentence = str(caught.value)
    assert 'layers.0.blocks.0.op.dt_projs_bias is (4, 192) in the file and (4, 96) in the model' in sentence
    assert 'looks like VMamba t[s2l5] (96 channels, blocks 2-2-5-2, ssm_ratio 2)' in sentence
    assert 'the model is VMamba tiny, T[s1l8] (96 channels, blocks 2-2-8-2, ssm_ratio 1)' in sentence
