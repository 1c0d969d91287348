"""Position embeddings keep their grid: through files, prefixes, wrappers and averages, and between grids."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import get_state_dict, load_checkpoint, weights_to_cpu
from tiny_backbones import PLAIN_ARCH, VIM_ARCH
from torch import nn

from mmssmprune.checkpoints.loading import check_state_dict, load_checkpoint_strict
from mmssmprune.checkpoints.official import ConversionReport, convert_to_official, convert_to_ours
from mmssmprune.engine.runner import _CheckStateDictHook
from mmssmprune.models import PlainMamba, PlainMambaAdapter, Vim
from mmssmprune.models.layers.patch_embed import resize_pos_embed

KINDS = {
    'plain_mamba': lambda **k: PlainMamba(PLAIN_ARCH, **k),
    'adapter': lambda **k: PlainMambaAdapter(PLAIN_ARCH, conv_inplane=8, norm_cfg=dict(type='BN'), **k),
    'vim': lambda **k: Vim(VIM_ARCH, **k),
    'vim_double': lambda **k: Vim(VIM_ARCH, use_double_cls_token=True, **k),
    'vim_patches': lambda **k: Vim(VIM_ARCH, if_cls_token=False, **k),
}
# 64 cells in three ways: 4x16, 16x4 and 8x8.
WIDE, TALL, SQUARE = (64, 256), (256, 64), 128


def rows_of_classes(model) -> int:
    return model.num_extra_tokens


def expected(source, target):
    return resize_pos_embed(source.pos_embed, source.pos_hw, target.pos_hw, rows_of_classes(source))


def save(tmp_path, model, entry='state_dict') -> str:
    """As mmengine saves a whole model."""
    path = tmp_path / 'whole.pth'
    state = weights_to_cpu(get_state_dict(nn.ModuleDict({'backbone': model})))
    torch.save({entry: state, 'meta': {}}, path)
    return str(path)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('target_size', [WIDE, TALL, SQUARE, (96, 160)])
def test_init_cfg_knows_the_grid_of_a_file(tmp_path, kind, target_size):
    source = KINDS[kind](img_size=WIDE)
    init_cfg = dict(type='Pretrained', checkpoint=save(tmp_path, source), prefix='backbone.')
    target = KINDS[kind](img_size=target_size, init_cfg=init_cfg)
    target.init_weights()
    assert torch.equal(target.pos_embed, expected(source, target))
    if target_size == WIDE:
        assert torch.equal(target.pos_embed, source.pos_embed)


@pytest.mark.parametrize('kind', KINDS)
def test_whole_models_are_resized_by_load_from_and_by_a_test(tmp_path, kind):
    source = KINDS[kind](img_size=WIDE)
    path = save(tmp_path, source)
    for size in (WIDE, TALL, SQUARE, (96, 160)):
        strict, runner = (nn.ModuleDict({'backbone': KINDS[kind](img_size=size)}) for _ in range(2))
        load_checkpoint_strict(strict, path)
        assert torch.equal(strict.backbone.pos_embed, expected(source, strict.backbone))
        checkpoint = torch.load(path, weights_only=True)
        fake_run = SimpleNamespace(model=runner, checkpoint_being_loaded=path, _train_loop=None, _resume=False)
        fake_run._resumes = None
        _CheckStateDictHook().after_load_checkpoint(fake_run, checkpoint)
        torch.save(checkpoint, tmp_path / 'checked.pth')
        load_checkpoint(runner, str(tmp_path / 'checked.pth'))
        assert torch.equal(runner.backbone.pos_embed, expected(source, runner.backbone))
        fake_run._resume = True
        if size != WIDE:
            with pytest.raises(ValueError, match='a training resumes at its own img_size'):
                _CheckStateDictHook().after_load_checkpoint(fake_run, torch.load(path, weights_only=True))


@pytest.mark.parametrize('kind', ['plain_mamba', 'vim'])
def test_state_dicts_by_hand(kind):
    source, wide, tall, other = (KINDS[kind](img_size=size) for size in (WIDE, WIDE, TALL, (96, 160)))
    assert not [key for key in source.state_dict() if 'hw' in key]
    for state in (source.state_dict(), dict(source.state_dict()), copy.deepcopy(source.state_dict())):
        wide.load_state_dict(state)
        assert torch.equal(wide.pos_embed, source.pos_embed)
    for target in (tall, other):
        target.load_state_dict(source.state_dict())
        assert torch.equal(target.pos_embed, expected(source, target))
    averaged = ExponentialMovingAverage(source)
    wrapped = nn.ModuleDict({'module': nn.ModuleDict({'backbone': tall})})
    wrapped.module.load_state_dict(nn.ModuleDict({'backbone': averaged.module}).state_dict())
    assert torch.equal(tall.pos_embed, expected(source, tall))


def without_record(tmp_path, model) -> str:
    path = tmp_path / 'plain.pth'
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}}, path)
    return str(path)


@pytest.mark.parametrize('kind', ['plain_mamba', 'vim'])
def test_without_a_record_a_file_is_square_or_a_sentence_is_said(tmp_path, kind):
    def load(source_size, size):
        source = KINDS[kind](img_size=source_size)
        path = without_record(tmp_path, source)
        target = KINDS[kind](img_size=size, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone'))
        target.init_weights()
        return source, target

    for size in (SQUARE, 96, (96, 160)):
        source, target = load(SQUARE, size)
        assert torch.equal(target.pos_embed, expected(source, target))
    with pytest.raises(ValueError, match=r'60 position embeddings and do not say for which grid .* to 8x8'):
        load((96, 160), SQUARE)
    # 14x14 is what the released models have, whatever grid of 196 cells the model has.
    source, target = load(224, (112, 448))
    assert torch.equal(target.pos_embed, expected(source, target))
    source, target = load(WIDE, WIDE)
    assert torch.equal(target.pos_embed, source.pos_embed)


def test_what_is_taken_for_granted_is_said(tmp_path):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance('pos_embed_test', log_file=str(tmp_path / 'log.txt'))
    path = without_record(tmp_path, KINDS['vim'](img_size=WIDE))
    KINDS['vim'](img_size=WIDE, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone')).init_weights()
    for handler in logger.handlers:
        handler.flush()
    assert 'do not say which grid their 64 position embeddings are for' in (tmp_path / 'log.txt').read_text()


@pytest.mark.parametrize('record', [(4, 4), (64,), 'ab', (-4, -16), 5])
def test_a_wrong_record_is_refused(record):
    source = KINDS['plain_mamba'](img_size=WIDE)
    state = source.state_dict()
    state._metadata['']['pos_hw'] = record
    with pytest.raises(ValueError, match='64 position embeddings are for the grid'):
        KINDS['plain_mamba'](img_size=WIDE).load_state_dict(state)


def test_a_converted_file_keeps_the_grid():
    source = nn.ModuleDict({'backbone': KINDS['vim'](img_size=WIDE)})

    def report():
        return ConversionReport('x.pth', '', '')

    state = source.state_dict()
    (official,) = convert_to_official(state, report()).values()
    target = nn.ModuleDict({'backbone': KINDS['vim'](img_size=TALL)})
    wrapped = nn.ModuleDict({'module': source}).state_dict()  # as DistributedDataParallel writes it
    for given in (state, official, wrapped):
        ours = convert_to_ours({'state_dict': given}, report(), target)
        assert torch.equal(ours['backbone.pos_embed'], expected(source.backbone, target.backbone))
        target.load_state_dict(ours)
        assert torch.equal(target.backbone.pos_embed, expected(source.backbone, target.backbone))


def test_weights_of_a_wrapped_model_fit(tmp_path):
    source = KINDS['plain_mamba'](img_size=WIDE)
    state = nn.ModuleDict({'module': nn.ModuleDict({'backbone': source})}).state_dict()
    torch.save(state, tmp_path / 'ddp.pth')
    target = nn.ModuleDict({'backbone': KINDS['plain_mamba'](img_size=TALL)})
    load_checkpoint_strict(target, str(tmp_path / 'ddp.pth'))
    assert torch.equal(target.backbone.pos_embed, expected(source, target.backbone))


def test_a_state_dict_that_is_only_compared_stays_as_it_is():
    source = nn.ModuleDict({'backbone': KINDS['plain_mamba'](img_size=WIDE)})
    state = OrderedDict(source.state_dict())
    before = state['backbone.pos_embed']
    check_state_dict(source, state, 'a.pth')
    assert state['backbone.pos_embed'] is before
