"""What pruning stores: under its older names in every way of loading, and said where a checkpoint lacks it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from official_files import official_file
from older_files import OLDER, older
from tiny_backbones import make
from torch import nn

from mmssmprune.checkpoints.keys import compare_state_dict
from mmssmprune.checkpoints.loading import check_state_dict, load_checkpoint_strict
from mmssmprune.checkpoints.official import ConversionReport, convert_to_official, convert_to_ours
from mmssmprune.pruning import register_restoration
from mmssmprune.pruning.restoration import RESTORATION

PRUNING = dict(layers=[1], keep_ratio=0.5, restoration='mask_token')
UNTRAINED = "backbone.pruner.stages.0.restoration.mask_token: pruning.restoration 'mask_token' starts untrained"


def save(path: Path, content: dict) -> str:
    torch.save(content, path)
    return str(path)


def whole(kind: str = 'plain_mamba', **pruning: object) -> nn.ModuleDict:
    """As a detector holds its backbone, with something in what the pruning stores."""
    model = nn.ModuleDict({'backbone': make(kind, pruning=PRUNING | pruning if pruning.get('layers', True) else None)})
    for name, value in model.state_dict().items():
        if 'pruner.' in name:
            value.fill_(3)
    return model


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name.partition('pruner.')[2]: value for name, value in model.state_dict().items() if 'pruner.' in name}


def logged(tmp_path: Path, name: str = 'state') -> list[str]:
    for handler in MMLogger.get_instance(name, log_file=str(tmp_path / 'log.txt')).handlers:
        handler.flush()
    return [line for line in (tmp_path / 'log.txt').read_text().splitlines() if 'untrained' in line]


@pytest.mark.parametrize('kind', ['plain_mamba', 'adapter', 'vim_cls'])
@pytest.mark.parametrize('way', ['init_cfg', 'strict', 'wrapped'])
def test_older_names_are_loaded_as_todays(tmp_path: Path, kind: str, way: str):
    source, logs = whole(kind), logged(tmp_path)
    state = older(source.state_dict())
    if way == 'wrapped':
        state = {f'module.{name}': value for name, value in state.items()}
    path = save(tmp_path / 'old.pth', {'state_dict': state})
    target = nn.ModuleDict({'backbone': make(kind, pruning=PRUNING)})
    if way == 'init_cfg':
        target.backbone.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
        target.backbone.init_weights()
    else:
        load_checkpoint_strict(target, path)
    assert stored(target).keys() == stored(source).keys()
    assert all((value == 3).all() for value in stored(target).values())
    assert logged(tmp_path) == logs == []


def test_older_names_of_another_shape_are_refused():
    state = older(whole().state_dict())
    state['backbone.pruner.mask_token'] = torch.zeros(1, 1, 5)
    with pytest.raises(ValueError, match=r'restoration\.mask_token is \(1, 1, 5\) instead of \(1, 1, 24\)'):
        check_state_dict(whole(), state, 'a.pth')
    assert not compare_state_dict(whole(), older(whole().state_dict()))


def test_converters_leave_older_names_behind():
    names = {f'backbone.pruner.{name}' for name in OLDER.values()}
    extra = {name: torch.ones(1) for name in names}
    report = ConversionReport('a.pth', '', '')
    ours = convert_to_ours({'state_dict': official_file('plain_mamba_l1')['state_dict'] | extra}, report)
    assert names <= report.dropped.keys()
    back = ConversionReport('a.pth', '', '')
    convert_to_official({'state_dict': ours | extra}, back)
    assert set(back.dropped) == names


@pytest.mark.parametrize('way', ['init_cfg', 'test', 'load_from'])
def test_a_choice_without_its_training_is_said(tmp_path: Path, way: str):
    logged(tmp_path)
    dense = nn.ModuleDict({'backbone': make('plain_mamba')})
    path = save(tmp_path / 'dense.pth', {'state_dict': dense.state_dict()})
    target = whole()
    if way == 'init_cfg':
        target.backbone.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
        target.backbone.init_weights()
    elif way == 'test':
        load_checkpoint_strict(target, path)
    else:
        check_state_dict(target, dense.state_dict(), path, heads_too=False)
    (line,) = logged(tmp_path)
    assert 'dense.pth has no ' in line
    assert UNTRAINED.removeprefix('backbone.' if way == 'init_cfg' else '') in line


def test_nothing_is_said_where_nothing_wants_training(tmp_path: Path):
    logged(tmp_path)
    dense = nn.ModuleDict({'backbone': make('plain_mamba')}).state_dict()
    for target in (whole(layers=()), whole(restoration='follow')):
        check_state_dict(target, dense, 'a.pth')
    check_state_dict(whole(), whole().state_dict(), 'a.pth')
    assert logged(tmp_path) == []


def test_choices_from_outside_are_said_too(tmp_path: Path):
    @register_restoration(name='painted', needs='training')
    class Painted(nn.Module):
        def __init__(self, stage):
            super().__init__()
            self.paint = nn.Parameter(torch.zeros(stage.embed_dims))

    try:
        logged(tmp_path)
        model = whole(restoration='painted')
        check_state_dict(model, nn.ModuleDict({'backbone': make('plain_mamba')}).state_dict(), 'a.pth')
        (line,) = logged(tmp_path)
    finally:
        RESTORATION.pop('painted')
    assert line.endswith("has no backbone.pruner.stages.0.restoration.paint: pruning.restoration 'painted' "
                         'starts untrained')  # fmt: skip
