from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmssmprune.engine.loading import build_model
from mmssmprune.models import set_keep_ratio


def config(**backbone) -> Config:
    arch = dict(embed_dims=16, num_layers=2, num_convs=1, layers_with_dwconv=[], mixer_cfg=dict(d_state=2, expand=1))
    head = dict(
        type='FCNHead', in_channels=16, in_index=0, channels=8, num_convs=1, num_classes=3, norm_cfg=dict(type='SyncBN')
    )
    backbone = dict(type='PlainMamba', arch=arch, img_size=32, out_indices=(1,), **backbone)
    model = dict(type='EncoderDecoder', backbone=backbone, decode_head=head, test_cfg=dict(mode='whole'))
    return Config(dict(default_scope='mmseg', model=model))


def test_model_is_ready_for_inference(tmp_path: Path):
    model = build_model(config())
    assert not model.training
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    again, other = build_model(config()), build_model(config(), seed=1)
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    assert not all(torch.equal(value, weights[name]) for name, value in other.state_dict().items())
    torch.save({'state_dict': weights}, tmp_path / 'x.pth')
    loaded = build_model(config(), str(tmp_path / 'x.pth'), seed=1)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_a_dense_checkpoint_serves_a_pruned_model(tmp_path: Path):
    torch.save({'state_dict': build_model(config()).state_dict()}, tmp_path / 'x.pth')
    model = build_model(config(pruning=dict(layers=[0], keep_ratio=0.5)), str(tmp_path / 'x.pth'))
    set_keep_ratio(model, 0.25)
    assert model.backbone.tokens_per_layer((32, 32)) == [4, 1]


def test_a_checkpoint_of_another_architecture(tmp_path: Path):
    torch.save({'state_dict': {'backbone.x': torch.zeros(1)}}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='of another architecture'):
        build_model(config(), str(tmp_path / 'x.pth'))
