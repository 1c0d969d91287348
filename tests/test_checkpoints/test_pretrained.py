"""Loading pretrained weights by key."""

from __future__ import annotations

import pytest
import torch
from tiny_backbones import PLAIN_ARCH, VIM_ARCH, make

from mmssmprune.models import PlainMamba, PlainMambaAdapter, Vim


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
