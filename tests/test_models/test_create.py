"""Backbones by name, for projects without mmengine: the same classes, numbers and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

import mmssmprune
from mmssmprune.models import PlainMamba, Vim, VMamba, set_keep_ratio
from mmssmprune.models.create import CONFIG_FILE, WEIGHTS_FILE

PRUNING = dict(layers=[1], keep_ratio=0.5, restoration='mask_token')
SMALL = {
    'plain_mamba_l1': dict(num_layers=3, embed_dims=32, out_indices=(0, 2), img_size=(32, 64)),
    'vim_tiny': dict(num_layers=3, embed_dims=32, out_indices=(1, 2), img_size=(32, 64)),
    'vmamba_tiny': dict(depths=(1, 2, 1), embed_dims=16, out_indices=(0, 2)),
}


def test_every_published_backbone_has_a_name():
    names = mmssmprune.list_backbones()
    assert len(set(names)) == len(names) == 15
    assert {'plain_mamba_l3', 'vim_base', 'vmamba_small', 'vmamba_t_s2l5', 'vmamba_vanilla_b'} <= set(names)


@pytest.mark.parametrize('name', ['plain_mamba_l2', 'vim_small', 'vmamba_t_s2l5'])
def test_it_is_the_class_of_the_registry_with_the_same_weights(name: str):
    family, arch = {
        'plain_mamba_l2': ('PlainMamba', 'L2'),
        'vim_small': ('Vim', 'small'),
        'vmamba_t_s2l5': ('VMamba', 't[s2l5]'),
    }[name]
    with torch.device('meta'):
        ours = mmssmprune.create_backbone(name)
        registered = MODELS.build(dict(type=family, arch=arch))
    assert type(ours) is type(registered)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in registered.state_dict().items()
    }


@pytest.mark.parametrize('pruning', [None, PRUNING], ids=['dense', 'pruned'])
@pytest.mark.parametrize('name', SMALL)
def test_a_folder_gives_the_same_backbone_back_bit_for_bit(name: str, pruning: dict | None, tmp_path: Path):
    backbone = mmssmprune.create_backbone(name, pruning=pruning, **SMALL[name]).eval()
    if pruning:
        set_keep_ratio(backbone, 0.7)  # what it was set to since, not what it was built with
    mmssmprune.save_pretrained(backbone, tmp_path / 'saved')
    again = mmssmprune.from_pretrained(tmp_path / 'saved').eval()
    images = torch.randn(2, 3, 32, 96)
    maps, state = again(images), backbone.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(backbone(images), maps, strict=True))
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert {path.name for path in (tmp_path / 'saved').iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    info = again.feature_info
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, -(-32 // stride), -(-96 // stride))
        for channels, stride in zip(info.channels(), info.reduction(), strict=True)
    ]
    dense = mmssmprune.from_pretrained(tmp_path / 'saved', pruning=None)
    assert dense.pruning is None


def test_a_target_is_saved_as_the_plan_that_it_was_solved_to(tmp_path: Path):
    target = dict(flops_reduction=0.2, input_shape=(64, 64), layers=[0])
    backbone = mmssmprune.create_backbone('vim_tiny', pruning=target, **SMALL['vim_tiny'])
    mmssmprune.save_pretrained(backbone, tmp_path)
    assert mmssmprune.from_pretrained(tmp_path).pruning == dict(
        layers=[0], keep_ratio=list(backbone.pruner.plan.keep_ratios)
    )


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_pretrained_takes_files_and_folders(prefix: str, tmp_path: Path):
    settings = SMALL['vim_tiny']
    donor = mmssmprune.create_backbone('vim_tiny', **settings)
    mmssmprune.save_pretrained(donor, tmp_path / 'folder')
    state = {f'{prefix}{key}': value for key, value in donor.state_dict().items()}
    torch.save({'state_dict': state | {'decode_head.x': torch.zeros(1)}}, tmp_path / 'whole.pth')
    for source in (tmp_path / 'folder', tmp_path / 'folder' / WEIGHTS_FILE, tmp_path / 'whole.pth'):
        model = mmssmprune.create_backbone('vim_tiny', pretrained=source, **settings)
        assert torch.equal(model.layers[0].mixer.in_proj.weight, donor.layers[0].mixer.in_proj.weight)


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path):
    create = mmssmprune.create_backbone
    with pytest.raises(ValueError, match=r"there is no backbone 'vim'; the names are .*vim_tiny"):
        create('vim')
    with pytest.raises(ValueError, match=r'Vim cannot be built: .*depth'):
        create('vim_tiny', depth=3)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        create('vim_tiny', pretrained=tmp_path / 'no.pth', **SMALL['vim_tiny'])
    with pytest.raises(FileNotFoundError, match='there is no file or folder'):
        create('vim_tiny', pretrained=tmp_path / 'no', **SMALL['vim_tiny'])
    with pytest.raises(ValueError, match='of the same arch'):
        mmssmprune.save_pretrained(create('vim_tiny', **SMALL['vim_tiny']), tmp_path)
        create('vmamba_tiny', pretrained=tmp_path, **SMALL['vmamba_tiny'])
    with pytest.raises(ValueError, match='that create_backbone or from_pretrained has built'):
        mmssmprune.save_pretrained(Vim('tiny', num_layers=1), tmp_path / 'x')
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize(
    ('config', 'sentence'),
    [
        ('[1', 'is no config of save_pretrained'),
        (json.dumps(dict(type='Vim', settings=[])), 'is no config of save_pretrained'),
        (json.dumps(dict(type='os.system', settings={}, pruning=None)), 'the types are PlainMamba, Vim, VMamba'),
        (json.dumps(dict(type='Vim', settings=dict(init_cfg={}), pruning=None)), 'holds init_cfg'),
        (json.dumps(dict(type='Vim', settings=dict(dims=3), pruning=None)), 'Vim cannot be built'),
    ],
)
def test_a_config_from_elsewhere_is_checked(config: str, sentence: str, tmp_path: Path):
    (tmp_path / CONFIG_FILE).write_text(config)
    with pytest.raises(ValueError, match=sentence):
        mmssmprune.from_pretrained(tmp_path)


def test_a_name_of_the_hub_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(FileNotFoundError, match='pip install huggingface_hub'):
        mmssmprune.from_pretrained('somebody/vim-tiny')


def test_strides_of_pyramids():
    vim = Vim('tiny', num_layers=4, embed_dims=32, out_indices=(0, 1, 2, 3), with_fpn=True, norm_cfg=dict(type='BN'))
    info, maps = vim.feature_info, vim.eval()(torch.randn(1, 3, 64, 64))
    assert info.reduction() == [4, 8, 16, 32]
    assert [64 // m.shape[-1] for m in maps] == info.reduction()
    assert PlainMamba('L1', num_layers=1, embed_dims=32).feature_info.reduction() == [16]
    assert VMamba(dict(embed_dims=16, depths=(1, 1)), out_indices=(0, 1)).feature_info == [
        {'num_chs': 16, 'reduction': 4},
        {'num_chs': 32, 'reduction': 8},
    ]


ALONE = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
import torch, mmssmprune
for name, settings in {small}.items():
    for pruning in (None, {pruning}):
        model = mmssmprune.create_backbone(name, pruning=pruning, pretrained={folder!r} + '/' + name, **settings).eval()
        torch.manual_seed(0)
        print(name, [m.double().sum().item() for m in model(torch.randn(2, 3, 32, 96))])
print(sorted({names} & {{module.split('.')[0] for module in sys.modules}}))
"""


# Two fresh processes, since nothing may be imported before: ten seconds.
def test_torch_alone_gives_the_same_numbers(tmp_path: Path):
    for name, settings in SMALL.items():
        mmssmprune.save_pretrained(mmssmprune.create_backbone(name, **settings), tmp_path / name)
    absent = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'rich', 'yaml', 'cv2', 'PIL', 'matplotlib'}
    printed = []
    for names in (absent, {'nothing'}):
        code = ALONE.format(names=names, small=SMALL, pruning=PRUNING, folder=str(tmp_path))
        env = {**os.environ, 'OMP_NUM_THREADS': '1'}
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        printed.append([line for line in done.stdout.splitlines() if line.startswith(('v', 'p', '['))])
    assert printed[0][-1] == '[]'
    assert len(printed[0]) == 7
    assert printed[0] == printed[1]
