from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from mmssmprune.analysis.comparison.forms import FORMS, make_form, room_for_graphs
from mmssmprune.models import PlainMamba, set_keep_ratio


def backbone(**pruning: object) -> PlainMamba:
    mixer = dict(d_state=4, expand=1, conv_size=3)
    arch = dict(embed_dims=16, num_layers=2, num_convs=1, layers_with_dwconv=[], mixer_cfg=mixer)
    torch.manual_seed(0)
    pruning = dict(layers=[0], keep_ratio=0.5) | pruning
    return PlainMamba(arch=arch, img_size=64, out_indices=(1,), pruning=pruning).eval()


# Two graphs are made into C++ and compiled: minutes on a busy machine.
@pytest.mark.slow
def test_a_compiled_backbone_is_the_same_backbone_in_one_graph_for_each_ratio():
    torch._dynamo.reset()
    counters.clear()
    model, images = backbone(), torch.randn(1, 3, 64, 48)
    compiled = FORMS['compile'](model, images)
    with torch.no_grad():
        for graphs, ratio in ((1, 0.5), (2, 0.75), (2, 0.5)):
            set_keep_ratio(model, ratio)
            torch.testing.assert_close(compiled(images), model(images))
            assert counters['stats']['unique_graphs'] == graphs and not counters['graph_break']


# Three graphs are traced, some ten seconds each on a busy machine.
@pytest.mark.slow
def test_every_row_gets_a_graph_of_its_own():
    """Beyond its limit torch.compile would run a row eagerly without a word."""
    torch._dynamo.reset()
    model, images = backbone(), torch.randn(1, 3, 64, 48)
    counter = CompileCounterWithBackend('eager')
    compiled = torch.compile(model, dynamic=False, backend=counter)
    ratios = [0.3, 0.6, 0.9]
    with torch._dynamo.config.patch(recompile_limit=1), room_for_graphs(len(ratios)), torch.no_grad():
        for ratio in ratios:
            set_keep_ratio(model, ratio)
            compiled(images)
    assert counter.frame_count == len(ratios)


# Some seconds: a backbone is traced, and once more for ONNX.
def test_an_exported_backbone_stands_in_the_place_of_its_own():
    model, images = backbone(), torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        (want,), (program,) = model(images), make_form('torch', model, images, 'a')(images)
        (onnx,) = make_form('onnx', model, images, 'a')(images)
    assert torch.equal(program, want)
    torch.testing.assert_close(onnx, want, atol=1e-5, rtol=1e-5)
    assert make_form('eager', model, images, 'a') is model


def test_a_form_that_cannot_be_made_says_whose_and_why():
    model = backbone(reduction='prune', importance='random')
    with pytest.raises(RuntimeError, match=r"^tiny cannot be timed in the form torch .*'random' cannot be exported"):
        make_form('torch', model, torch.randn(1, 3, 64, 48), 'tiny')
