"""What is exported of a model, and what is refused before anything is traced."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny_backbones import PRUNING, make
from torch import nn

from mmssmprune.deployment.checking import Deviation, sizes_to_check
from mmssmprune.deployment.onnx_file import check_packages
from mmssmprune.deployment.parts import ExportedPart
from mmssmprune.deployment.program import channels_of, export_program


def test_outputs_of_a_backbone_are_its_maps_by_number():
    model = make('vim_cls', pruning=PRUNING)
    part, images = ExportedPart(model), torch.rand(2, 3, 64, 96)
    names, maps = zip(*part.named_outputs(images), strict=True)
    assert names == ('feature_0', 'feature_1', 'feature_2', 'feature_3')
    assert all(torch.equal(got, want) for got, want in zip(maps, model(images), strict=True))
    assert all(torch.equal(got, want) for got, want in zip(maps, part(images), strict=True))


@pytest.mark.parametrize(
    ('model', 'part', 'sentence'),
    [
        (lambda: make('vmamba'), 'head', "part is 'head'; the names are backbone, model"),
        (lambda: make('vmamba'), 'model', 'this is a backbone alone'),
        (lambda: nn.Conv2d(3, 3, 1), 'backbone', 'Conv2d is no backbone of this package'),
        (
            lambda: make('plain_mamba', pruning=dict(PRUNING, importance='random')),
            'backbone',
            "pruning.importance 'random' cannot be exported",
        ),
    ],
)
def test_what_cannot_be_exported_is_named_before_it_starts(model, part: str, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        ExportedPart(model(), part)


def test_a_size_that_the_model_refuses_is_refused_in_its_words():
    with pytest.raises(ValueError, match='do not tile an image of 40x64'):
        export_program(ExportedPart(make('vim_cls')), (40, 64))
    merging = ExportedPart(make('vim_cls', pruning=dict(PRUNING, reduction='merge')))
    with pytest.raises(ValueError, match="reduction 'merge' cannot be exported with open image sizes"):
        export_program(merging, (64, 64), 'hw')
    with pytest.raises(ValueError, match="dynamic is 'size'; the names are batch, hw"):
        export_program(ExportedPart(make('vim_cls')), (64, 64), 'size')


@pytest.mark.parametrize('kind', ['plain_mamba', 'vim_cls', 'vmamba'])
def test_images_have_the_channels_of_the_first_convolution(kind: str):
    assert channels_of(ExportedPart(make(kind, in_channels=5))) == 5


def test_open_sizes_are_checked_at_several():
    assert sizes_to_check((64, 96), None, 3) == [(3, 64, 96)]
    assert {batch for batch, *_ in sizes_to_check((64, 96), 'batch')} == {1, 2, 5}
    assert len({tuple(hw) for _, *hw in sizes_to_check((64, 96), 'hw')}) == 3


@pytest.mark.parametrize(
    ('largest', 'share', 'agrees'), [(1e-6, 0, True), (3, 0.01, True), (3, 0.5, False), (float('nan'), 0, False)]
)
def test_a_few_other_tokens_are_no_fault_and_many_are(largest: float, share: float, agrees: bool):
    assert Deviation((1, 64, 64), largest, 4.0, share).agrees is agrees


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'onnx, onnxscript, onnxruntime.*requirements/export.txt'):
        check_packages()
