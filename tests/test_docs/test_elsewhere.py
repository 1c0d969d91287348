"""The examples of docs/elsewhere.md, as they stand there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pages import REPO, code_blocks, named_blocks
from PIL import Image

import mmssmprune

PAGE = REPO / 'docs/elsewhere.md'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: the configs, and a picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(REPO / 'configs')
    for name, code in named_blocks(PAGE).items():
        (tmp_path / name).write_text(code)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)).save(tmp_path / 'image.png')
    return tmp_path


def example(word: str) -> dict:
    """Run the one Python block with this word, and return its names."""
    (code,) = [code for code in code_blocks(PAGE.read_text(), 'python') if word in code]
    names: dict = {}
    exec(compile(code, str(PAGE), 'exec'), names)
    return names


def save_weights(config: str, path: Path, **meta: object) -> None:
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': meta}, path)


def test_a_backbone_by_name(here: Path, capsys: pytest.CaptureFixture):
    names = example('set_keep_ratio')
    assert [tuple(m.shape) for m in names['maps']] == [(2, 192, 14, 14)] * 4
    assert (names['channels'], names['strides']) == ([192] * 4, [16] * 4)
    assert names['backbone'].pruner.plan.keep_ratios == (0.5,) * 3
    assert str(mmssmprune.list_backbones()) in capsys.readouterr().out


def test_save_and_share(here: Path):
    names = example('save_pretrained')
    assert names['again'].pruning == dict(layers=[5, 11, 17], keep_ratio=[0.7] * 3)
    assert names['dense'].pruning is None
    weight = 'layers.3.mixer.in_proj.weight'
    assert torch.equal(names['again'].state_dict()[weight], names['backbone'].state_dict()[weight])


def test_a_config_of_ones_own_and_the_inferencer_of_mmseg(here: Path):
    save_weights('my_fcn.py', here / 'my_fcn.pth')
    names = example('MMSegInferencer')
    assert names['labels'].shape == (48, 80)
    assert names['inferencer'].model.backbone.pruner.plan.layers == (1,)


def test_the_inferencer_of_mmdet_with_a_config_of_this_repository(here: Path):
    config = 'configs/plain_mamba/plain-mamba-mini-top70_mask-rcnn_1xb8-300i_mini-coco-128x128.py'
    save_weights(config, here / 'mini.pth', dataset_meta=dict(classes=tuple(map(str, range(10)))))
    names = example('DetInferencer')
    assert all(len(box) == 4 for box in names['boxes'])
    assert names['inferencer'].model.backbone.pruning is not None
