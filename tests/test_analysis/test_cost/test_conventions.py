"""Counts of the official models by every convention, against the published ones and what their scripts count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmssmprune.analysis.cost.conventions import CONVENTIONS, convention_named
from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.models import PlainMamba, Vim
from mmssmprune.models.flops import on_meta

# The official counter's own numbers at 224 x 224 pixels: convolutions, linear layers, norms, activations, scans.
PLAIN_MAMBA = {
    'L1': (825_269_760, 1_141_604_352, 5_168_128, 1_605_632, 1_047_674_880),
    'L2': (1_531_848_192, 4_450_811_904, 8_580_096, 2_408_448, 2_095_349_760),
    'L3': (1_718_716_160, 9_053_356_032, 11_314_688, 2_408_448, 3_666_862_080),
}
# What each script's formula gives at 224 x 224 pixels with the class token, classifier included.
VIM = {
    'tiny': {
        'vmamba': 1_604_992_512,
        'local-mamba': 1_475_175_936,
        'r-meeto': 1_448_965_632,
        'both-directions-9': 1_822_858_752,
        'both-directions-3': 1_474_272_768,
    },
    'small': {
        'vmamba': 5_301_500_928,
        'local-mamba': 5_117_955_072,
        'r-meeto': 5_076_593_664,
        'both-directions-9': 5_911_526_400,
        'both-directions-3': 5_214_354_432,
    },
    'base': {
        'vmamba': 18_969_065_472,
        'local-mamba': 18_906_322_944,
        'r-meeto': 18_867_836_928,
        'both-directions-9': 20_886_288_384,
        'both-directions-3': 19_491_944_448,
    },
}


class Classifier(nn.Module):
    """A backbone and a linear head for ImageNet-1k."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.embed_dims, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[-1].mean((2, 3)))


def image(side: int = 224) -> Tensor:
    return torch.empty(1, 3, side, side, device='meta')


@pytest.mark.parametrize('arch', PLAIN_MAMBA)
def test_plain_mamba_as_officially_counted(arch: str):
    conv, linear, norm, act, scan = PLAIN_MAMBA[arch]
    counted = count_flops(on_meta(PlainMamba(arch)), image(), 'plain-mamba')
    assert counted.per_op['mmssmprune.multi_scan'] == scan
    assert counted.per_op['aten.addmm'] + counted.per_op['aten.mm'] == linear
    assert counted.per_op['aten.convolution'] + counted.per_op['mmssmprune.kept_conv'] == conv
    assert counted.per_op['aten.relu_'] if 'aten.relu_' in counted.per_op else counted.per_op['aten.relu'] == act
    assert counted.total == conv + linear + norm + act + scan


def test_plain_mamba_published_digits():
    totals = {arch: sum(parts) / 1e9 for arch, parts in PLAIN_MAMBA.items()}
    assert {arch: f'{total:.3f}' for arch, total in totals.items()} == {'L1': '3.021', 'L2': '8.089', 'L3': '14.453'}
    assert f'{totals["L3"] * (1 - 0.416):.2f}' == '8.44'  # the paper's operating point


@pytest.mark.parametrize('arch', VIM)
def test_vim_by_every_named_convention(arch: str):
    model = on_meta(Classifier(Vim(arch)))
    assert {name: count_flops(model, image(), name).total for name in VIM[arch]} == VIM[arch]


def test_the_page_has_these_numbers():
    page = (Path(__file__).resolve().parents[3] / 'docs' / 'flops.md').read_text(encoding='utf-8')
    for arch, parts in PLAIN_MAMBA.items():
        assert re.search(rf'^\| {arch} \| [\d.]+ \| {sum(parts) / 1e9:.3f} \|$', page, re.MULTILINE), arch
    columns = ('local-mamba', 'vmamba', 'r-meeto', 'both-directions-9', 'both-directions-3')
    for arch, totals in VIM.items():
        numbers = ' | '.join(f'{totals[name] / 1e9:.3f}' for name in columns)
        assert f'| {numbers} |' in page, arch
    for name in CONVENTIONS:
        assert f'| `{name}` |' in page, name


def test_two_per_mac_counts_products_twice_and_scans_once():
    model = on_meta(Classifier(Vim(dict(embed_dims=24, num_layers=2), img_size=64)))
    macs, field, strict = (count_flops(model, image(64), name) for name in ('macs', 'field', 'two-per-mac'))
    scan = field.per_op['mmssmprune.multi_scan']
    assert 'mmssmprune.multi_scan' not in macs.per_op
    assert field.total == macs.total + scan
    assert strict.total == 2 * macs.total + scan


@pytest.mark.parametrize('name', CONVENTIONS)
def test_pruning_is_counted_by_every_convention(name: str):
    family = PlainMamba if CONVENTIONS[name].family == 'PlainMamba' else Vim
    arch = dict(embed_dims=24, num_layers=4, mixer_cfg=dict(d_state=4))
    model = on_meta(family(arch, img_size=64, pruning=dict(layers=[0, 1], keep_ratio=0.5)))
    counted = count_flops(model, image(64), name)
    dense = count_flops(on_meta(family(arch, img_size=64)), image(64), name)
    layers = [counted.per_module[f'layers.{i}'] for i in range(4)]
    dense_layers = [dense.per_module[f'layers.{i}'] for i in range(4)]
    assert layers[0] == dense_layers[0]
    assert layers[1] < dense_layers[1]
    assert layers[2] < layers[1]
    assert layers[2] == layers[3]


def test_wrong_names_and_families_are_refused():
    with pytest.raises(ValueError, match="'flops'; the names are macs, field, two-per-mac"):
        convention_named('flops')
    with pytest.raises(ValueError, match='the convention plain-mamba is for PlainMamba, and this backbone is a Vim'):
        count_flops(Vim(dict(embed_dims=24, num_layers=2)), image(), 'plain-mamba')
