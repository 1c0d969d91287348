"""The examples of docs/extend.md, taken from the page: they build, train, prune and cost what they should."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from pages import REPO, named_blocks
from torch import nn

from mmssmprune.models import keep_ratio_set_to, set_keep_ratio
from mmssmprune.models.flops import count_on_meta, on_meta
from mmssmprune.pruning import IMPORTANCE, register_importance, register_reduction
from mmssmprune.pruning.pruner import KINDS

SIDE = 128


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder: the blocks of the page as files, and configs/ beside them."""
    for name, code in named_blocks(REPO / 'docs/extend.md').items():
        (tmp_path / name).write_text(code)
    (tmp_path / 'configs').symlink_to(REPO / 'configs')
    monkeypatch.syspath_prepend(str(tmp_path))
    known = [(choices, set(choices)) for choices in KINDS.values()]
    yield tmp_path
    for choices, names in known:
        for name in set(choices) - names:
            del choices[name]
    MODELS.module_dict.pop('MyMamba', None)
    for name in ('my_importance', 'my_backward', 'my_fade', 'my_mamba'):
        sys.modules.pop(name, None)


def build(config: Path, **backbone: object) -> nn.Module:
    from mmengine.model import revert_sync_batchnorm

    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    for key, value in backbone.items():  # `update` would merge nested dicts
        cfg.model.backbone[key] = value
    torch.manual_seed(0)
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def labelled_image() -> object:
    from mmseg.structures import SegDataSample

    labels = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE) * 9 // SIDE**2
    return SegDataSample(metainfo=dict(img_shape=(SIDE, SIDE)), gt_sem_seg=PixelData(data=labels))


def boxed_image() -> object:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    mask = np.zeros((1, SIDE, SIDE), dtype=np.uint8)
    mask[:, 30:90, 20:80] = 1
    shapes = dict(img_shape=(SIDE, SIDE), batch_input_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE))
    truth = InstanceData(
        bboxes=torch.tensor([[20.0, 30.0, 80.0, 90.0]]), labels=torch.tensor([1]), masks=BitmapMasks(mask, SIDE, SIDE)
    )
    sample = DetDataSample(metainfo=shapes)
    sample.gt_instances = truth
    return sample


def train_a_step(model: nn.Module, sample: object) -> dict[str, float]:
    """One step of AdamW in which every parameter has a gradient and the backbone moves; returns the losses."""
    before = [value.detach().clone() for value in model.backbone.parameters()]
    losses = model.train().loss(torch.randn(2, 3, SIDE, SIDE), [sample, sample])
    loss, log = model.parse_losses(losses)
    loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert without == []
    assert all(not torch.equal(*pair) for pair in zip(model.backbone.parameters(), before, strict=True))
    return {name: float(value) for name, value in log.items()}


def flops(backbone: nn.Module) -> int:
    return count_on_meta(on_meta(backbone), (SIDE, SIDE))


def test_own_importance_decides_and_trains(folder: Path):
    model = build(folder / 'my_contrast_mini-ade.py')
    assert model.backbone.pruning['importance'] == 'contrast'
    images = torch.randn(1, 3, SIDE, SIDE)
    own = model.eval().backbone(images)
    as_published = build(folder / 'my_contrast_mini-ade.py', pruning=dict(model.backbone.pruning, importance='clip'))
    as_published.load_state_dict(model.state_dict())
    assert any((a != b).any() for a, b in zip(own, as_published.eval().backbone(images), strict=True))
    assert train_a_step(model, labelled_image())['loss'] > 0


def test_own_importance_is_what_the_page_says(folder: Path):
    build(folder / 'my_contrast_mini-ade.py')
    from mmssmprune.pruning import LayerTrace

    y = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [-3.0, -4.0]]])
    assert IMPORTANCE['contrast'](LayerTrace(y, ()), None).tolist() == [[0.0, 5.0, 5.0]]


def test_importance_with_a_wrong_result_is_refused(folder: Path):
    @register_importance
    def per_channel(trace, tokens):
        return trace.y

    @register_importance
    def nothing(trace, tokens):
        return None

    for name, told in (('per_channel', 'but gave shape'), ('nothing', 'but gave NoneType')):
        model = build(folder / 'my_contrast_mini-ade.py', pruning=dict(layers=[1], keep_ratio=0.7, importance=name))
        with pytest.raises(ValueError, match=rf"importance '{name}' must return one score per token.*{told}"):
            model.backbone(torch.randn(1, 3, SIDE, SIDE))


def test_a_taken_name_is_refused(folder: Path):
    def clip(trace, tokens):
        return trace.y.sum(-1)

    with pytest.raises(ValueError, match=r"'clip' is taken by mmssmprune\.pruning\.importance\.clip"):
        register_importance(clip)
    register_importance(IMPORTANCE['clip'])  # the same again
    with pytest.raises(ValueError, match='the names are clip, sum'):
        build(folder / 'my_contrast_mini-ade.py', pruning=dict(layers=[1], keep_ratio=0.7, importance='contrasts'))


def test_own_restoration_learns_and_own_score_sees_directions(folder: Path):
    model = build(folder / 'my_fade_mini-ade.py')
    logit = model.backbone.pruner.stages[0].restoration.logit
    assert train_a_step(model, labelled_image())['loss'] > 0
    assert logit.shape == (64,)
    assert logit.grad.abs().sum() > 0
    traces = []
    for layer in model.backbone.layers:
        layer.register_forward_hook(lambda _, __, out: traces.append(out[-1]))
    with torch.no_grad():
        model.eval().backbone(torch.randn(2, 3, SIDE, SIDE))
    shown = [i for i, trace in enumerate(traces) if trace.directions]
    assert shown == list(model.backbone.pruner.plan.layers)  # elsewhere nobody asks for them, and nobody pays
    for i in shown:
        assert len(traces[i].directions) == 4
        torch.testing.assert_close(sum(traces[i].directions), traces[i].y)


def test_an_unknown_need_is_refused():
    with pytest.raises(ValueError, match="reduction 'mine' needs 'gradients', which is unknown; needs are class_token"):
        register_reduction(name='mine', needs='gradients')(lambda *_: None)


def test_own_backbone_trains_and_predicts(folder: Path):
    model = build(folder / 'my_mamba_mini-coco.py')
    assert {'loss_rpn_cls', 'loss_bbox', 'loss_mask'} <= train_a_step(model, boxed_image()).keys()
    sample = boxed_image()
    sample.set_metainfo(dict(ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0)))
    (predicted,) = model.eval().predict(torch.randn(1, 3, SIDE, SIDE), [sample])
    assert predicted.pred_instances.bboxes.shape[1] == 4


def test_own_backbone_meets_its_target_and_is_dense_at_1(folder: Path):
    pruned = build(folder / 'my_mamba_mini-coco.py').backbone.eval()
    dense = build(folder / 'my_mamba_mini-coco.py', pruning=None).backbone.eval()
    dense.load_state_dict(pruned.state_dict())
    assert flops(pruned) == pytest.approx(0.7 * flops(dense), rel=0.01)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad(), keep_ratio_set_to(pruned, 1.0):
        assert torch.equal(pruned(images)[0], dense(images)[0])
        assert flops(pruned) == flops(dense)
    with torch.no_grad():
        assert not torch.equal(pruned(images)[0], dense(images)[0])
    set_keep_ratio(pruned, 0.3)
    assert flops(pruned) < 0.7 * flops(dense)


@pytest.mark.parametrize('names', [dict(alignment='none'), dict(regime='per_stage'), dict(reduction='merge')])
def test_own_backbone_takes_other_choices(folder: Path, names: dict):
    pruning = dict(layers=[1, 3], keep_ratio=0.6, **names)
    model = build(folder / 'my_mamba_mini-coco.py', pruning=pruning, out_indices=(2, 7), with_cp=True).backbone.train()
    shapes = [tuple(out.shape) for out in model(torch.randn(1, 3, SIDE, 96))]
    assert shapes == [(1, 64, 16, 12)] * 2


def test_examples_are_about_twenty_lines(folder: Path):
    for name in ('my_importance.py', 'my_backward.py', 'my_fade.py', 'my_mamba.py'):
        code = (folder / name).read_text()
        body = code[code.index('@') :]  # imports and blank lines aside
        assert sum(bool(line.strip()) for line in body.splitlines()) <= 27, name
