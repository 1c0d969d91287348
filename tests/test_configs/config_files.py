"""The config files of configs/ and how the tests load, shrink and build them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmssmprune.engine.runner_setup import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# Classification needs mmpretrain and has tests of its own.
ALL = sorted(p for p in CONFIGS.rglob('*.py') if '_base_' not in p.parts and 'in1k' not in p.stem)
REAL = [path for path in ALL if 'mini' not in path.stem]
PLAIN_MAMBA, VIM, VMAMBA = (CONFIGS / family for family in ('plain_mamba', 'vim', 'vmamba'))

# They differ from quick ones in size alone, or in the training alone; solving and counting them takes minutes.
REPEATS = re.compile(r'vmamba-[sb]-flops|vmamba-t-flops30-(finetune|elastic)')


def as_parameters(paths: list[Path]) -> list:
    """Of a test that solves or counts: the repeats are slow."""
    return [pytest.param(p, id=p.stem, marks=pytest.mark.slow if REPEATS.match(p.stem) else ()) for p in paths]


def load(path: Path) -> Config:
    """The config with random weights; its suite becomes the default scope."""
    cfg = load_config(str(path))
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    return MODELS.build(cfg.model)


def shrink(cfg: Config, side: int) -> Config:
    """Make images about ``side`` pixels large and boxes, which are not under test, few; the architecture stays."""
    for part in (cfg.train_dataloader, cfg.test_dataloader):
        for transform in _transforms(part.dataset.pipeline):
            if 'crop_size' in transform:
                transform.crop_size = (side, side)
            if 'scale' in transform:  # a bound for the longer side, and for segmentation one for the shorter
                transform.scale = (side, side) if cfg.default_scope == 'mmdet' else (4 * side, side)
            if 'scales' in transform:
                transform.scales = [(side, 2 * side)]
    preprocessor = cfg.model.data_preprocessor
    if cfg.default_scope == 'mmseg':
        preprocessor.size = (side, side)
        if cfg.model.test_cfg.mode == 'slide':
            cfg.model.test_cfg.update(crop_size=(side, side), stride=(side * 2 // 3, side * 2 // 3))
            preprocessor.test_cfg.size = (side, side)
        return cfg
    preprocessor.pad_size_divisor = min(preprocessor.pad_size_divisor, side)
    for place in _places(cfg.model, 'nms_pre'):
        place.update(nms_pre=100, max_per_img=20)
    for place in _places(cfg.model, 'max_per_img'):
        place.max_per_img = min(place.max_per_img, 20)
    for place in _places(cfg.model.train_cfg.get('rcnn', {}), 'num'):
        place.num = 32
    return cfg


def _transforms(pipeline: list) -> list[dict]:
    """The steps of a pipeline, those among which one chooses included."""
    inside = [step for outer in pipeline for choice in outer.get('transforms', []) for step in choice]
    return [*pipeline, *inside]


def _places(node: Any, key: str) -> list[dict]:
    """Every dict inside ``node`` that has ``key``."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    inside = [place for child in children for place in _places(child, key)]
    return [node, *inside] if isinstance(node, dict) and key in node else inside
