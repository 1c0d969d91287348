"""Counts of the official models by every convention, against the published ones and what their scripts count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmssmprune.analysis.cost.conventions import CONVENTIONS, conventions_named
from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.analysis.cost.model_cost import model_cost
from mmssmprune.analysis.cost.operations import record_operations
from mmssmprune.models import PlainMamba, Vim, VMamba
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
# The official counter's totals of classifiers at 224 x 224 pixels.
VMAMBA = {
    'tiny': 4_905_609_984,
    't[s2l5]': 4_857_742_080,
    'small': 8_715_774_720,
    's[s1l20]': 8_612_211_456,
    'base': 15_358_944_256,
    'b[s1l20]': 15_220_859_904,
    'vanilla-t': 5_626_895_040,
    'vanilla-s': 11_231_522_784,
    'vanilla-b': 18_020_115_136,
}
NAMES = {'tiny': 'T[s1l8]', 'small': 'S[s2l15]', 'base': 'B[s2l15]', 't[s2l5]': 'T[s2l5]', 's[s1l20]': 'S[s1l20]'}
NAMES |= {'b[s1l20]': 'B[s1l20]'} | {f'vanilla-{size}': f'vanilla {size.upper()}' for size in 'tsb'}
# And of backbones at 1280 x 800 and 512 x 2048 (height, width).
VMAMBA_DENSE = {
    'tiny': (100_151_808_000, 102_555_451_392),
    't[s2l5]': (99_174_912_000, 101_555_109_888),
    'small': (177_910_272_000, 182_180_118_528),
    'base': (313_497_600_000, 321_021_542_400),
}
# Whole Mask R-CNN and UPerNet there. Those of T, and the detector of S, are the official ones to the digit; the others
# are published as means over images.
VMAMBA_WHOLE = {
    'tiny': (271_163_376_640, 948_780_189_696),
    'small': (348_921_840_640, 1_028_404_856_832),
    'base': (485_492_208_640, 1_170_340_890_624),
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


@pytest.mark.parametrize('arch', VMAMBA)
def test_vmambas_classifiers_as_officially_counted(arch: str):
    backbone = VMamba(arch, out_indices=-1, out_type='avg_featmap')
    model = on_meta(nn.ModuleDict({'backbone': backbone, 'head': nn.Linear(backbone.embed_dims[-1], 1000)}))
    model.backbone = model['backbone']

    def forward() -> Tensor:
        return model['head'](model['backbone'](image())[-1])

    counted = count_flops(model, forward, 'vmamba').total
    if arch.startswith('vanilla'):  # fvcore reads what an einsum costs from a text of four digits
        counted += sum(
            int(float(f'{2 * op.macs:.3e}') / 2) - op.macs
            for op in record_operations(model, forward)
            if op.name in ('aten.mm', 'aten.bmm') and op.module.endswith('.op')
        )
    assert counted == VMAMBA[arch]


@pytest.mark.parametrize('arch', VMAMBA_DENSE)
def test_vmambas_backbones_as_officially_counted(arch: str):
    model = on_meta(VMamba(arch))
    sizes = (1280, 800), (512, 2048)
    images = (torch.empty(1, 3, *size, device='meta') for size in sizes)
    assert tuple(count_flops(model, one, 'vmamba').total for one in images) == VMAMBA_DENSE[arch]


def test_vmambas_parts_by_hand():
    """Of VMamba-T at 224 x 224 pixels, a block of the third stage and what stands between stages."""
    counted = count_flops(on_meta(VMamba('tiny')), image(), 'vmamba')
    third = counted.per_module['layers.2.blocks.3']
    assert third == 308_883_456
    assert counted.per_module['layers.2.blocks.3.mlp'] == 2 * 115_605_504
    assert counted.per_module['layers.2.downsample'] == 130_056_192 + 188_160
    assert counted.per_module['patch_embed'] == 16_257_024 + 3_010_560 + 130_056_192 + 1_505_280
    assert counted.per_op['mmssmprune.multi_scan'] == 63_221_760


def whole_model(suite: str, base: str, backbone: VMamba) -> nn.Module:
    """The suite's own model around a backbone, with its classes as published and without an auxiliary head."""
    package = pytest.importorskip(suite)
    cfg = Config.fromfile(Path(package.__file__).parent / '.mim/configs/_base_/models' / base).model
    init_default_scope(suite)
    cfg.pop('pretrained', None)
    cfg.backbone = dict(type='mmengine.VMamba', arch='tiny')
    widths = list(backbone.embed_dims)
    if suite == 'mmdet':
        cfg.neck.in_channels = widths
        cfg.data_preprocessor.pad_size_divisor = 1
    else:
        cfg.pop('auxiliary_head')
        cfg.data_preprocessor.pop('size', None)
        cfg.decode_head.update(in_channels=widths, num_classes=150, norm_cfg=dict(type='BN'))
    model = MODELS.build(cfg).eval()
    model.backbone = backbone
    return model


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base'])
def test_vmambas_detectors_and_segmentors_as_officially_counted(arch: str):
    with torch.device('meta'):
        backbone = VMamba(arch).eval()
    detector = whole_model('mmdet', 'mask-rcnn_r50_fpn.py', backbone)
    segmentor = whole_model('mmseg', 'upernet_r50.py', backbone)
    counted = [model_cost(m, s, ['vmamba']) for m, s in ((detector, (1280, 800)), (segmentor, (512, 2048)))]
    assert tuple(cost['flops']['vmamba']['total'] for cost in counted) == VMAMBA_WHOLE[arch]
    if arch == 'tiny':
        detected = counted[0]['flops']['vmamba']
        assert detected['neck'] == 53_105_664_000
        assert detected['heads'] == 50_615_792_640 + 67_290_112_000
        assert counted[0]['proposals'] == 1000
        assert counted[0]['params']['total'] == 49_755_312


def test_the_page_has_these_numbers():
    page = (Path(__file__).resolve().parents[3] / 'docs' / 'flops.md').read_text(encoding='utf-8')
    for arch, parts in PLAIN_MAMBA.items():
        assert re.search(rf'^\| {arch} \| [\d.]+ \| {sum(parts) / 1e9:.3f} \|$', page, re.MULTILINE), arch
    columns = ('local-mamba', 'vmamba', 'r-meeto', 'both-directions-9', 'both-directions-3')
    for arch, totals in VIM.items():
        numbers = ' | '.join(f'{totals[name] / 1e9:.3f}' for name in columns)
        assert f'| {numbers} |' in page, arch
    for arch, totals in VMAMBA_WHOLE.items():
        row = rf'^\| {re.escape(NAMES[arch])} \|.* {totals[0] / 1e9:.3f} \| \d+ \| {totals[1] / 1e9:.3f} \|$'
        assert re.search(row, page, re.MULTILINE), arch
    for arch, total in VMAMBA.items():
        assert re.search(rf'^\| {re.escape(NAMES[arch])} \| [\d.]+ \| {total / 1e9:.3f} \|', page, re.MULTILINE), arch
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
        conventions_named('flops')
    with pytest.raises(ValueError, match='the convention plain-mamba is for PlainMamba, and this backbone is a Vim'):
        count_flops(Vim(dict(embed_dims=24, num_layers=2)), image(), 'plain-mamba')
