"""The config files of configs/ and how the tests load, shrink and build them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmssmprune.engine.runner_setup import load_config
from mmssmprune.pruning.plan import PLAN_KEYS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# Classification needs mmpretrain and has tests of its own.
ALL = sorted(p for p in CONFIGS.rglob('*.py') if '_base_' not in p.parts and 'in1k' not in p.stem)
REAL = [path for path in ALL if 'mini' not in path.stem]
PLAIN_MAMBA, VIM, VMAMBA = (CONFIGS / family for family in ('plain_mamba', 'vim', 'vmamba'))
# One of a kind, with the smallest model, is for the quick tests, where each would cost seconds.
QUICK = re.compile(r'-(l1|t)(_|-flops30_|-top70_)|-(evit|merge)-')
SLOW = re.compile(r'ms-3x|semantic-fpn|cascade|vmamba-t-(evit|merge)')


def is_quick(name: str) -> bool:
    """Whether a config stands for its kind."""
    return bool(QUICK.search(name)) and not SLOW.search(name)


def load(path: Path) -> Config:
    """The config with random weights; its suite becomes the default scope."""
    cfg = load_config(str(path))
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg: Config, device: str = 'cpu') -> torch.nn.Module:
    """The model; on 'meta' it has shapes, but no weights, which would take most of the time."""
    with torch.device(device):
        return MODELS.build(cfg.model)


@cache
def metafile(family: Path) -> dict:
    return yaml.safe_load((family / 'metafile.yml').read_text(encoding='utf-8'))


def listed(config: Path) -> dict:
    """What the metafile says of a config."""
    models = {model['Name']: model for model in metafile(config.parent)['Models']}
    return models[config.stem]


def with_listed_plan(pruning: dict, config: Path) -> dict:
    """The pruning dict with the plan in the metafile in the place of a target, which takes seconds to solve."""
    others = {name: value for name, value in pruning.items() if name not in PLAN_KEYS}
    said = listed(config)['Metadata']
    return {**others, 'layers': said['Pruned After Layers'], 'keep_ratio': said['Keep Ratios']}


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
