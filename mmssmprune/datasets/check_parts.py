"""Which files and folders to check: those of a published data set, or those that a config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from .check_class_folders import ClassFolderPart
from .check_coco import CocoPart
from .check_label_maps import LabelMapPart
from .data_root import LOADERS, datasets_of

Part = CocoPart | LabelMapPart | ClassFolderPart

# Images and annotations per annotation file of COCO 2017; images of ADE20K's scene parsing set and of ImageNet-1k.
COCO = {'instances_train2017.json': (118287, 860001), 'instances_val2017.json': (5000, 36781)}
ADE = {'training': 20210, 'validation': 2000}
IMAGENET = {'train': 1281167, 'val': 50000}
ADE_CLASSES = 150
IMAGENET_CLASSES = 1000
# Where the configs look, inside the data root.
FOLDERS = {'coco': 'coco', 'ade': 'ade/ADEChallengeData2016', 'imagenet': 'imagenet'}


def published_parts(kind: str, root: Path) -> list[Part]:
    """Training and validation part of 'coco', 'ade' or 'imagenet' in the folder ``root``."""
    if kind == 'coco':
        from mmdet.datasets import CocoDataset

        classes = tuple(CocoDataset.METAINFO['classes'])
        split = {'instances_train2017.json': 'train2017', 'instances_val2017.json': 'val2017'}
        return [
            CocoPart(f'coco {split[file]}', root / 'annotations' / file, root / split[file], classes, counts)
            for file, counts in COCO.items()
        ]
    if kind == 'ade':
        return [
            LabelMapPart(
                f'ade {split}',
                root / 'images' / split,
                root / 'annotations' / split,
                '.jpg',
                '.png',
                ADE_CLASSES,
                True,
                n,
            )
            for split, n in ADE.items()
        ]
    return [_imagenet_part(f'imagenet {split}', root, split) for split in IMAGENET]


def parts_of_config(cfg: Config) -> list[Part]:
    """What the dataloaders of a config read, each once.

    Raises:
        ValueError: The config has no dataloaders, or a data set of a format that cannot be checked.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    parts: dict[Part, None] = {}
    for loader in LOADERS:
        for dataset in datasets_of(cfg.get(loader)):
            parts[_part_of(loader.removesuffix('_dataloader'), dataset)] = None
    if not parts:
        raise ValueError('the config names no data set in its dataloaders')
    # Validation and test usually read the same files.
    once = {(type(part), *[v for k, v in vars(part).items() if k != 'name']): part for part in reversed(list(parts))}
    return list(reversed(once.values()))


def _part_of(name: str, cfg: dict[str, Any]) -> Part:
    if cfg['type'] == 'ImageNet':
        return _imagenet_part(name, Path(cfg['data_root']), cfg.get('split') or 'train')
    dataset = DATASETS.build({**cfg, 'lazy_init': True, 'pipeline': []})
    if hasattr(dataset, 'COCOAPI'):
        ann_file = Path(dataset.ann_file)
        classes = tuple(dataset.metainfo['classes'])
        return CocoPart(name, ann_file, Path(dataset.data_prefix['img']), classes, COCO.get(ann_file.name))
    if 'seg_map_path' in dataset.data_prefix:
        return _label_map_part(name, dataset)
    raise ValueError(
        f'{name} reads a {type(dataset).__name__}; this check knows COCO, ADE20K and ImageNet formats only'
    )


def _label_map_part(name: str, dataset: Any) -> LabelMapPart:
    image_dir, label_dir = (Path(dataset.data_prefix[key]) for key in ('img_path', 'seg_map_path'))
    published = ADE.get(image_dir.name) if type(dataset).__name__ == 'ADE20KDataset' else None
    return LabelMapPart(
        name,
        image_dir,
        label_dir,
        dataset.img_suffix,
        dataset.seg_map_suffix,
        len(dataset.metainfo['classes']),
        dataset.reduce_zero_label,
        published,
    )


def _imagenet_part(name: str, root: Path, split: str) -> ClassFolderPart:
    return ClassFolderPart(name, root / split, IMAGENET_CLASSES, IMAGENET.get(split), root / 'meta' / f'{split}.txt')
