"""Which files and folders to check: those of a published data set, or those that a config names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from .check_class_folders import ClassFolderPart, LoadedPart
from .check_coco import CocoPart
from .check_files import Decoder, How, in_words
from .check_findings import Findings
from .check_heads import heads_of
from .check_label_maps import IGNORED, LabelMapPart

# Images and annotations per annotation file of COCO 2017; images of ADE20K's scene parsing set and of ImageNet-1k.
COCO = {'instances_train2017.json': (118287, 860001), 'instances_val2017.json': (5000, 36781)}
ADE = {'training': 20210, 'validation': 2000}
IMAGENET = {'train': 1281167, 'val': 50000}
ADE_CLASSES = 150
IMAGENET_CLASSES = 1000
# Where the configs look, inside the data root.
FOLDERS = {'coco': 'coco', 'ade': 'ade/ADEChallengeData2016', 'imagenet': 'imagenet'}


@dataclass(frozen=True)
class BrokenPart:
    """A data set that cannot be built; the others are checked all the same."""

    name: str
    problem: str

    def check(self, how: How) -> Findings:
        """Say so."""
        findings = Findings(self.name)
        findings.add(f'the data set cannot be built ({self.problem})')
        return findings


Part = CocoPart | LabelMapPart | ClassFolderPart | LoadedPart | BrokenPart


def published_parts(kind: str, root: Path) -> list[Part]:
    """Training and validation part of 'coco', 'ade' or 'imagenet' in the folder ``root``."""
    if kind == 'coco':
        return [_published_coco(root, file, counts) for file, counts in COCO.items()]
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


def _published_coco(root: Path, file: str, counts: tuple[int, int]) -> CocoPart:
    """As the instance configs read and evaluate it."""
    from mmdet.datasets import CocoDataset

    folder = file.removeprefix('instances_').removesuffix('.json')
    ann_file = root / 'annotations' / file
    evaluated = dict(metrics=('bbox', 'segm'), eval_file=ann_file) if folder.startswith('val') else {}
    classes = tuple(CocoDataset.METAINFO['classes'])
    return CocoPart(f'coco {folder}', ann_file, root / folder, classes, counts, masks=True, **evaluated)


def parts_of_config(cfg: Config) -> list[Part]:
    """What the dataloaders of a config read, each once.

    Raises:
        ValueError: The config has no dataloaders, or none of its data sets can be built.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    parts: list[tuple[Part, dict[str, Any]]] = []
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        for dataset in _datasets_of(loader.get('dataset') if isinstance(loader, dict) else loader):
            part = _part_of(split, dataset, cfg)
            if not any(_same(part, other) and _reads(dataset) == _reads(before) for other, before in parts):
                parts.append((part, dataset))  # validation and test usually read the same files
    if not parts:
        raise ValueError('the config names no data set in its dataloaders')
    if all(isinstance(part, BrokenPart) for part, _ in parts):
        raise ValueError(f'the data sets of the config cannot be built: {parts[0][0].problem}')
    return [part for part, _ in parts]


def check_parts(parts: list[Part], how: How) -> list[Findings]:
    """Check each part, and whether those in COCO's format number their classes alike."""
    found = [part.check(how) for part in parts]
    orders = [findings for findings in found if findings.class_order]
    for findings in orders[1:]:
        if findings.class_order != orders[0].class_order:
            findings.add(
                f'the categories are others or stand in another order than those of {orders[0].part}; mmdet numbers '
                'classes in the order of the file, so the same number would mean another class'
            )
    return found


def _same(part: Part, other: Part) -> bool:
    """Whether two parts are judged alike; their data sets are objects and never equal."""
    keys = vars(part).keys() - {'name', 'dataset', 'labelled'}
    return type(part) is type(other) and all(getattr(other, key) == getattr(part, key) for key in keys)


def _reads(cfg: dict[str, Any]) -> dict[str, Any]:
    """What decides which entries a data set yields."""
    return {key: value for key, value in cfg.items() if key not in ('pipeline', 'test_mode')}


def _datasets_of(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every data set in a dataloader, those in wrappers such as RepeatDataset and ConcatDataset included."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _datasets_of(item.get('dataset', item) if isinstance(item, dict) else item)
    elif isinstance(node, dict):
        inner = node.get('datasets', node.get('dataset'))
        if inner is not None:
            yield from _datasets_of(inner)
        elif 'type' in node:
            yield node


def _part_of(split: str, cfg: dict[str, Any], config: Config) -> Part:
    try:
        transforms = list(_dicts_in(cfg.get('pipeline')))
        evaluators = list(_dicts_in(config.get(f'{split}_evaluator')))
        heads = dict(heads_of(config.get('model')))
        extra = dict(
            decoder=_decoder(transforms, 'LoadImageFromFile', Decoder()),
            heads={path: head['num_classes'] for path, head in heads.items()},
        )
        if _name(cfg) == 'ImageNet' and not cfg.get('ann_file') and not cfg.get('data_prefix'):
            return _imagenet_part(split, Path(cfg['data_root']), cfg.get('split') or 'train', **extra)
        dataset = DATASETS.build({**cfg, 'lazy_init': True, 'pipeline': []})
        if 'img' in dataset.data_prefix and hasattr(dataset, 'COCOAPI'):
            return _coco_part(split, dataset, transforms, evaluators, extra)
        if 'img_path' in dataset.data_prefix and hasattr(dataset, 'reduce_zero_label'):
            return _label_map_part(split, dataset, transforms, evaluators, heads, extra)
        return LoadedPart(split, dataset, **extra)
    except Exception as error:  # whatever the class raises, it would end the training as well
        return BrokenPart(split, in_words(error))


def _coco_part(split: str, dataset: Any, transforms: list[dict], evaluators: list[dict], extra: dict) -> CocoPart:
    classes = dataset.metainfo.get('classes') or ()
    if isinstance(classes, str):
        raise ValueError(f'metainfo.classes is the text {classes!r}, and has to be a tuple of names')
    ann_file = Path(dataset.ann_file)
    loading = next((t for t in transforms if _name(t) == 'LoadAnnotations'), {})
    metric = next((e for e in evaluators if _name(e) == 'CocoMetric' and e.get('ann_file')), {})
    metrics = metric.get('metric', 'bbox')
    return CocoPart(
        split,
        ann_file,
        Path(dataset.data_prefix['img']),
        tuple(classes),
        COCO.get(ann_file.name),
        dataset=dataset,
        masks=bool(loading.get('with_mask')) and (True if loading.get('poly2mask', True) else 'polygons'),
        metrics=(metrics,) if isinstance(metrics, str) else tuple(metrics),
        eval_file=Path(metric['ann_file']) if metric and not metric.get('format_only') else None,
        labelled=split != 'test',
        **extra,
    )


def _label_map_part(
    split: str, dataset: Any, transforms: list[dict], evaluators: list[dict], heads: dict, extra: dict
) -> LabelMapPart:
    image_dir, label_dir = (dataset.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
    if label_dir is None and split != 'test':
        raise ValueError('data_prefix has no seg_map_path, so that there are no labels')
    reduce = next((t for t in transforms if _name(t) == 'LoadAnnotations'), {}).get('reduce_zero_label')
    if reduce is not None and reduce != dataset.reduce_zero_label:
        raise ValueError(
            f'reduce_zero_label is {reduce} in LoadAnnotations and {dataset.reduce_zero_label} in the data set'
        )
    classes = dataset.metainfo.get('classes')
    judge = next((e for e in evaluators if _name(e) == 'IoUMetric'), {})
    judge = judge if split != 'train' else heads.get('model.decode_head', {})
    return LabelMapPart(
        split,
        Path(image_dir),
        None if label_dir is None else Path(label_dir),
        dataset.img_suffix,
        dataset.seg_map_suffix,
        len(classes) if classes else None,
        dataset.reduce_zero_label,
        ADE.get(Path(image_dir).name) if type(dataset).__name__ == 'ADE20KDataset' else None,
        dataset=dataset,
        label_map=dataset.label_map,
        ignored=judge.get('ignore_index', IGNORED),
        label_decoder=_decoder(transforms, 'LoadAnnotations', Decoder('pillow'))._replace(flag='unchanged'),
        **extra,
    )


def _dicts_in(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every config with a type, however deep it stands in others."""
    if isinstance(node, dict):
        if 'type' in node:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _dicts_in(item)


def _name(cfg: dict[str, Any]) -> str:
    """Name of what a config builds, without its scope; configs may give the class itself."""
    return cfg['type'].rpartition('.')[2] if isinstance(cfg['type'], str) else cfg['type'].__name__


def _decoder(transforms: list[dict], name: str, default: Decoder) -> Decoder:
    found = next((t for t in transforms if _name(t) == name), {})
    return Decoder(found.get('imdecode_backend', default.backend), found.get('color_type', default.flag))


def _imagenet_part(name: str, root: Path, split: str, **extra: Any) -> ClassFolderPart:
    list_file = root / 'meta' / f'{split}.txt'
    return ClassFolderPart(name, root / split, IMAGENET_CLASSES, IMAGENET.get(split), list_file, **extra)
