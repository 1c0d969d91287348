"""The dial, turned for the length of a with-block."""

from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS, init_default_scope
from tiny_backbones import PLAIN_ARCH, PRUNING, make
from torch import nn

from mmssmprune.models import keep_ratio_set_to, set_keep_ratio


def ratios(model: nn.Module) -> tuple[float, ...]:
    return model.pruner.plan.keep_ratios


@pytest.mark.parametrize('own', [0.6, [0.6, 0.3]])
def test_ratios_come_back_after_the_block(own):
    model = make('plain_mamba', pruning=dict(PRUNING, keep_ratio=own))
    before, tokens = ratios(model), model.tokens_per_layer((64, 64))
    with keep_ratio_set_to(model, 1.0):
        assert ratios(model) == (1.0, 1.0)
        with keep_ratio_set_to(model, [0.9, 0.2]):
            assert ratios(model) == (0.9, 0.2)
        assert ratios(model) == (1.0, 1.0)
    assert ratios(model) == before
    assert model.tokens_per_layer((64, 64)) == tokens
    assert model.pruning == dict(PRUNING, keep_ratio=own)


def test_ratios_come_back_after_exceptions():
    model = make('vim_cls', pruning=PRUNING)
    with pytest.raises(KeyError), keep_ratio_set_to(model, 0.9):
        raise KeyError
    assert ratios(model) == (0.6, 0.6)
    for wrong in (0.0, [0.5], [0.5, 2.0]):
        with pytest.raises(ValueError, match='keep_ratio'), keep_ratio_set_to(model, wrong):
            pytest.fail('the block was entered')
        assert ratios(model) == (0.6, 0.6)


def test_backbones_keep_ratios_of_their_own():
    first = make('plain_mamba', pruning=PRUNING)
    second = make('vim_cls', pruning=dict(layers=[1], keep_ratio=0.3))
    dense = make('plain_mamba')
    both = nn.ModuleList([first, dense, second])
    with keep_ratio_set_to(both, 0.8):
        assert (ratios(first), ratios(second)) == ((0.8, 0.8), (0.8,))
    assert (ratios(first), ratios(second)) == ((0.6, 0.6), (0.3,))
    # Two values fit the first alone; it must not be left behind with them.
    with pytest.raises(ValueError, match='2 values for 1 layers'), keep_ratio_set_to(both, [0.9, 0.9]):
        pass
    assert (ratios(first), ratios(second)) == ((0.6, 0.6), (0.3,))


def test_reaches_into_a_segmentor_and_its_test_time_augmentation():
    from mmseg.models import EncoderDecoder  # noqa: F401 (registers it)

    init_default_scope('mmseg')
    backbone = dict(type='PlainMamba', arch=PLAIN_ARCH, img_size=64, out_indices=(3,), pruning=dict(PRUNING))
    head = dict(type='FCNHead', in_channels=24, channels=8, num_convs=1, num_classes=2, norm_cfg=dict(type='BN'))
    model = MODELS.build(dict(type='EncoderDecoder', backbone=backbone, decode_head=head, test_cfg=dict(mode='whole')))
    model.eval()
    images = torch.randn(1, 3, 64, 64)

    class TTA(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            return data_samples_list

    pruned = model(images)
    for wrapped in (model, TTA(module=model)):
        with keep_ratio_set_to(wrapped, 1.0):
            assert not torch.equal(model(images), pruned)
        assert torch.equal(model(images), pruned)


def test_dense_models_are_refused():
    with pytest.raises(ValueError, match='no pruned backbone'), keep_ratio_set_to(make('plain_mamba'), 0.5):
        pass
    with pytest.raises(ValueError, match='no pruned backbone'):
        set_keep_ratio(nn.Linear(2, 2), 0.5)
