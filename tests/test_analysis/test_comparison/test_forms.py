from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from mmssmprune.analysis.comparison import measure
from mmssmprune.models import PlainMamba, set_keep_ratio


def backbone() -> PlainMamba:
    mixer = dict(d_state=4, expand=1, conv_size=3)
    arch = dict(embed_dims=16, num_layers=2, num_convs=1, layers_with_dwconv=[], mixer_cfg=mixer)
    torch.manual_seed(0)
    return PlainMamba(arch=arch, img_size=64, out_indices=(1,), pruning=dict(layers=[0], keep_ratio=0.5)).eval()


# Two graphs are made into C++ and compiled: minutes on a busy machine.
@pytest.mark.slow
def test_a_compiled_backbone_is_the_same_backbone_in_one_graph_for_each_ratio():
    torch._dynamo.reset()
    counters.clear()
    model, images = backbone(), torch.randn(1, 3, 64, 48)
    compiled = measure.FORMS['compile'](model, images)
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
    with torch._dynamo.config.patch(recompile_limit=1), measure._room_for_graphs(len(ratios)), torch.no_grad():
        for ratio in ratios:
            set_keep_ratio(model, ratio)
            compiled(images)
    assert counter.frame_count == len(ratios)
