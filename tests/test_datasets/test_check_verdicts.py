"""The check of a config judges what its loaders yield: what trains wrongly is refused, and what trains well passes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as mask_utils

from mmssmprune.datasets.check_files import How
from mmssmprune.datasets.check_parts import check_parts, parts_of_config

W, H = 60, 40
TURNED = 6  # EXIF: to be turned by a quarter


def save_image(path: Path, size: tuple[int, int] = (W, H), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', size, (90, 120, 30)).save(path, **({'exif': exif} if orientation != 1 else {}))


def annotation(i: int, image: int = 1, category: int = 1, **changes: Any) -> dict[str, Any]:
    x, y, w, h = box = [10, 5, 20, 12]
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    entry = dict(id=i, image_id=image, category_id=category, bbox=box, area=w * h, iscrowd=0, segmentation=[polygon])
    return {**entry, **changes}


def make_coco(root: Path) -> dict[str, Any]:
    """Two images, two categories, four annotations; the content of the annotation file of both splits."""
    names = ('a.jpg', 'b.jpg')
    for name in names:
        save_image(root / 'images' / name)
    return dict(
        images=[dict(id=i, file_name=name, width=W, height=H) for i, name in enumerate(names, 1)],
        categories=[dict(id=1, name='cell'), dict(id=2, name='disk')],
        annotations=[annotation(i, 1 + i % 2, 1 + i // 3) for i in range(1, 5)],
    )


def coco_config(root: Path, mask: bool = True) -> dict[str, Any]:
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=mask)]
    heads = dict(bbox_head=dict(type='Shared2FCBBoxHead', num_classes=2), mask_head=dict(num_classes=2))
    cfg: dict[str, Any] = dict(default_scope='mmdet', model=dict(type='MaskRCNN', roi_head=heads))
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'] = dict(
            dataset=dict(
                type='CocoDataset',
                data_root=str(root),
                ann_file=f'{split}.json',
                data_prefix=dict(img='images/'),
                metainfo=dict(classes=('cell', 'disk')),
                pipeline=load,
                test_mode=split == 'val',
            )
        )
    metric = ['bbox', 'segm'] if mask else 'bbox'
    cfg['val_evaluator'] = dict(type='CocoMetric', ann_file=str(root / 'val.json'), metric=metric)
    return cfg


def judge(cfg: dict[str, Any], depth: str = 'headers') -> tuple[list[str], list[str]]:
    """What is wrong and what is noted, over all parts of a config."""
    found = check_parts(parts_of_config(Config(cfg)), How(depth, workers=2))
    both = [[f'{f.part}: {s}' for f in found for s in f.sentences(notes=notes)] for notes in (False, True)]
    return both[0], both[1]


def judge_coco(root: Path, content: dict, mask: bool = True, train: dict | None = None) -> tuple[list[str], list[str]]:
    (root / 'train.json').write_text(json.dumps(train or content))
    (root / 'val.json').write_text(json.dumps(content))
    return judge(coco_config(root, mask))


def all_annotations(**changes: Any) -> Callable[[dict], object]:
    return lambda content: [entry.update(changes) for entry in content['annotations']]


def without(*keys: str) -> Callable[[dict], object]:
    return lambda content: [entry.pop(key) for entry in content['annotations'] for key in keys]


def first(**changes: Any) -> Callable[[dict], object]:
    return lambda content: content['annotations'][0].update(changes)


def rle(counts: Any, size: tuple[int, int] = (H, W)) -> dict[str, Any]:
    return dict(size=list(size), counts=counts)


COMPRESSED = mask_utils.encode(np.asfortranarray(np.eye(H, W, dtype=np.uint8)))['counts'].decode()

WRONG: dict[str, tuple[Callable[[dict], object], str]] = {
    'no iscrowd': (without('iscrowd'), 'val: 4 annotations have no iscrowd, without which the evaluation fails'),
    'crowd flag as a text': (first(iscrowd='0'), 'train: 1 annotations have an iscrowd other than 0 or 1'),
    'no area': (without('area'), "train: CocoDataset cannot load it (KeyError: 'area')"),
    'no segmentation': (without('segmentation'), 'train: 4 masks are missing or empty'),
    'empty segmentation': (first(segmentation=[]), 'train: 1 masks are missing or empty, e.g. annotation 1'),
    'empty polygon': (first(segmentation=[[]]), 'train: 1 masks have no polygon of three points or more'),
    'polygon of two points': (first(segmentation=[[1, 2, 3, 4]]), '1 masks have no polygon of three points or more'),
    'odd polygon': (first(segmentation=[[1, 2, 9, 2, 9, 9, 1]]), '1 masks have no polygon of three points or more'),
    'flat polygon': (first(segmentation=[1, 2, 9, 2, 9, 9]), '1 masks hold something other than lists of finite'),
    'short RLE': (first(segmentation=rle([10, 20])), '1 masks hold RLE counts that do not add up to the size'),
    'broken RLE': (first(segmentation=rle('oooo')), 'train: 1 masks hold RLE counts that cannot be decoded'),
    'cut RLE': (first(segmentation=rle(COMPRESSED[:-3])), '1 masks hold RLE counts that'),
    'RLE of nothing': (first(segmentation=rle([H * W])), 'train: 1 masks are RLE without a single pixel'),
    'all crowds': (all_annotations(iscrowd=1), 'train: the loader yields 2 images and not one usable object'),
    'all of no area': (all_annotations(area=0), 'val: the loader yields 2 images and not one usable object'),
    'all ignored': (all_annotations(ignore=1), 'train: the loader yields 2 images and not one usable object'),
    'no annotations': (lambda c: c['annotations'].clear(), 'val: the loader yields 2 images and not one usable object'),
    'no images': (lambda c: c['images'].clear(), 'train: the loader yields no image'),
    'relative boxes': (all_annotations(bbox=[0.2, 0.2, 0.5, 0.3]), 'train: 4 boxes lie in 0 to 1, as if relative'),
    'corners': (all_annotations(bbox=[10, 5, 30, 17]), 'train: 4 boxes are x1, y1, x2, y2; COCO wants x, y, width'),
    'negative size': (first(bbox=[30, 20, -5, -5]), 'train: 1 boxes have a negative width or height'),
    'list as id': (lambda c: c['images'][0].update(id=[1]), 'train: 1 image entries lack an id'),
    'list as annotation id': (first(id=[1]), 'train: 1 annotations have no id that is a number or a text'),
    'list as category': (first(category_id=[1]), 'train: 1 annotations are of an unknown category'),
    'number as file name': (lambda c: c['images'][0].update(file_name=7), 'train: 1 image entries lack an id'),
    'text as width': (lambda c: c['images'][0].update(width='60'), 'train: 1 image entries lack an id'),
    'ids of two kinds': (lambda c: c['images'].append(dict(c['images'][0], id='x')), 'val: some ids of images are num'),
    'missing class': (lambda c: c['categories'][1].update(name='rod'), '1 classes are not among the categories'),
    'class twice': (lambda c: c['categories'].append(dict(id=3, name='disk')), '1 classes are the name of several'),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_breaks_training_or_evaluation_is_refused(tmp_path: Path, name: str):
    spoil, sentence = WRONG[name]
    content = make_coco(tmp_path)
    assert judge_coco(tmp_path, content)[0] == []
    spoil(content)
    wrong, _ = judge_coco(tmp_path, content)
    assert any(sentence in found for found in wrong), wrong


GOOD: dict[str, Callable[[dict], object]] = {
    'sizes as floats': lambda c: [i.update(width=float(W), height=float(H)) for i in c['images']],
    'dot in front of a name': lambda c: c['images'][0].update(file_name='./a.jpg'),
    'float boxes': all_annotations(bbox=[10.0, 5.25, 20.5, 12.0], area=240.3),
    'uncompressed RLE': first(segmentation=rle([5, 3, H * W - 8]), iscrowd=1),
    'compressed RLE': first(segmentation=rle(COMPRESSED)),
    'one part of a polygon too short': first(segmentation=[[1, 2, 3, 4], [1, 1, 9, 1, 9, 9]]),
    'one crowd': first(iscrowd=1),
    'a box without area': first(bbox=[5, 5, 0, 4]),
    'ids that are texts': lambda c: (
        (
            [image.update(id=str(image['id'])) for image in c['images']],
            [entry.update(image_id=str(entry['image_id'])) for entry in c['annotations']],
        )
    ),
    'a third category': lambda c: (
        (
            c['categories'].append(dict(id=9, name='rod')),
            c['annotations'].append(annotation(9, category=9)),
        )
    ),
}


@pytest.mark.parametrize('name', GOOD)
def test_what_the_loader_copes_with_passes(tmp_path: Path, name: str):
    content = make_coco(tmp_path)
    GOOD[name](content)
    assert judge_coco(tmp_path, content)[0] == []


@pytest.mark.parametrize('name', ['deep/b c.jpg', 'zellkörper ü.png', 'b.tif', 'b.bmp', 'b.webp', 'b.JPG', 'absolute'])
def test_every_name_that_the_loader_opens_passes(tmp_path: Path, name: str):
    content = make_coco(tmp_path)
    if name == 'absolute':
        name = str(tmp_path / 'elsewhere' / 'b.png')
    (tmp_path / 'images' / 'b.jpg').unlink()
    save_image(tmp_path / 'images' / name)
    content['images'][1]['file_name'] = name
    assert judge_coco(tmp_path, content)[0] == []
    Path(tmp_path / 'images' / name).unlink()
    assert 'train: 1 images that the annotations name are missing' in judge_coco(tmp_path, content)[0][0]


@pytest.mark.parametrize('root', ['.', './', '../here', ''])
def test_a_relative_root_names_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str):
    here = tmp_path / 'here'
    content = make_coco(here)
    monkeypatch.chdir(here)
    for split in ('train', 'val'):
        Path(f'{split}.json').write_text(json.dumps(content))
    cfg = coco_config(here)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader']['dataset']['data_root'] = root
    assert judge(cfg) == ([], [])
    for name in ('a.jpg', 'b.jpg'):
        (here / 'images' / name).rename(here / name)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader']['dataset']['data_prefix'] = dict(img='')
    assert judge(cfg) == ([], [])


def test_masks_matter_only_where_they_are_loaded(tmp_path: Path):
    content = make_coco(tmp_path)
    without('segmentation')(content)
    assert judge_coco(tmp_path, content, mask=False)[0] == []
    train_only = copy.deepcopy(content)
    without('iscrowd')(train_only)  # mmdet trains without it
    assert judge_coco(tmp_path, content, mask=False, train=train_only)[0] == []


@pytest.mark.parametrize(
    ('flag', 'turns'), [('color', True), ('unchanged', False), ('color_ignore_orientation', False)]
)
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_sizes_are_those_after_the_loader_turned_the_image(tmp_path: Path, flag: str, turns: bool, backend: str):
    content = make_coco(tmp_path)
    save_image(tmp_path / 'images' / 'a.jpg', (H, W), TURNED)  # stored upright, shown lying
    for split in ('train', 'val'):
        (tmp_path / f'{split}.json').write_text(json.dumps(content))
    cfg = coco_config(tmp_path)
    load = dict(type='LoadImageFromFile', color_type=flag, imdecode_backend=backend)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader']['dataset']['pipeline'][0] = load
    wrong, notes = judge(cfg)
    assert bool(wrong) is not turns
    assert all(f'a.jpg is {H}x{W}, not {W}x{H}' in sentence for sentence in wrong)
    assert any('carry an orientation tag' in note for note in notes) is turns
    content['images'][0].update(width=H, height=W)
    (tmp_path / 'train.json').write_text(json.dumps(content))
    assert any('train: 1 images are of another size' in sentence for sentence in judge(cfg)[0]) is turns


def test_heads_have_to_fit_the_classes(tmp_path: Path):
    content = make_coco(tmp_path)
    for split in ('train', 'val'):
        (tmp_path / f'{split}.json').write_text(json.dumps(content))
    cfg = coco_config(tmp_path)
    cfg['model']['roi_head']['mask_head']['num_classes'] = 80
    sentence = 'train: model.roi_head.mask_head.num_classes is 80, and the data set has 2 classes'
    assert judge(cfg)[0][0] == sentence
    cfg['model'] = dict(type='RetinaNet', bbox_head=dict(num_classes=1))
    assert 'model.bbox_head.num_classes is 1, and' in judge(cfg)[0][0]


def test_the_evaluator_reads_a_file_of_its_own(tmp_path: Path):
    content = make_coco(tmp_path)
    for name in ('train', 'val', 'other'):
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    cfg = coco_config(tmp_path)
    cfg['val_evaluator']['ann_file'] = str(tmp_path / 'other.json')
    assert judge(cfg)[0] == []
    content['images'].pop()
    (tmp_path / 'other.json').write_text(json.dumps(content))
    assert 'val: 1 images are unknown to' in judge(cfg)[0][0]
    (tmp_path / 'other.json').unlink()
    assert judge(cfg)[0] == [f'val: the annotation file {tmp_path}/other.json does not exist']


def test_wrappers_and_other_splits_are_judged_each(tmp_path: Path):
    content = make_coco(tmp_path)
    for split in ('train', 'val'):
        (tmp_path / f'{split}.json').write_text(json.dumps(content))
    cfg = coco_config(tmp_path)
    broken = copy.deepcopy(cfg['train_dataloader']['dataset'])
    broken['ann_file'] = 'none.json'
    pair = dict(type='ConcatDataset', datasets=[cfg['train_dataloader']['dataset'], broken])
    cfg['train_dataloader']['dataset'] = dict(type='RepeatDataset', times=2, dataset=pair)
    assert judge(cfg)[0] == [f'train: the annotation file {tmp_path}/none.json does not exist']
    pair['datasets'].pop()
    # a test set without annotations, then one that cannot be built
    (tmp_path / 'info.json').write_text(json.dumps({k: v for k, v in content.items() if k != 'annotations'}))
    cfg['test_dataloader'] = copy.deepcopy(cfg['val_dataloader'])
    cfg['test_dataloader']['dataset']['ann_file'] = 'info.json'
    wrong, notes = judge(cfg)
    assert wrong == []
    assert 'test: there are no annotations, so that predictions can be written but not judged' in notes
    cfg['test_dataloader']['dataset'] = dict(type='NoSuchDataset')
    assert len(judge(cfg)[0]) == 1
    assert judge(cfg)[0][0].startswith('test: the data set cannot be built (')


def test_categories_in_another_order_are_other_classes(tmp_path: Path):
    content = make_coco(tmp_path)
    swapped = {**content, 'categories': content['categories'][::-1]}
    wrong, notes = judge_coco(tmp_path, content, train=swapped)
    assert [sentence.split(';')[0] for sentence in wrong] == [
        'val: the categories are others or stand in another order than those of train'
    ]
    assert 'train: the categories stand in another order than the classes of the config; theirs counts' in notes
    assert judge_coco(tmp_path, swapped)[0] == []  # alike in both, so right


def test_a_mask_that_nobody_asks_for_is_no_fault(tmp_path: Path):
    content = make_coco(tmp_path)
    train = copy.deepcopy(content)
    train['annotations'][0].update(area=0, segmentation=[])  # mmdet skips it
    assert judge_coco(tmp_path, content, train=train)[0] == []
    assert judge_coco(tmp_path, train)[0] == ['val: 1 masks are missing or empty, e.g. annotation 1']


def test_classes_given_as_a_text_are_refused(tmp_path: Path):
    make_coco(tmp_path)
    cfg = coco_config(tmp_path)
    cfg['train_dataloader']['dataset']['metainfo'] = dict(classes='cell')
    assert "metainfo.classes is the text 'cell', and has to be a tuple of names" in judge(cfg)[0][0]


def test_no_annotation_file_breaks_the_check_itself(tmp_path: Path):
    """Values of every JSON type in every field, from one seed: three seconds, for 150 files."""
    rng = random.Random(0)
    values = [None, True, -1, 0, 2.5, float('nan'), 10**400, '', 'x', '\ud800\n', 'a\0b', [], [1], [[]], [[1, 2]], {}]
    values += [[None] * 4, [1, 2, 3, 4], rle('oo'), rle([1, 2]), rle(None, (0, 0)), [['x'] * 6], [[10**400] * 6]]
    whole = make_coco(tmp_path)
    for _ in range(150):
        content = copy.deepcopy(whole)
        for _ in range(rng.choice([1, 1, 2, 5])):
            kind = rng.choice(['images', 'annotations', 'annotations', 'categories'])
            entry = rng.choice(content[kind]) if isinstance(content[kind], list) and content[kind] else None
            if isinstance(entry, dict) and entry and rng.random() < 0.9:
                entry[rng.choice([*entry, 'ignore'])] = rng.choice(values)
            else:
                content[kind] = rng.choice(values)
        wrong, notes = judge_coco(tmp_path, content)
        '\n'.join(wrong + notes).encode()  # and what it says can be printed


SIZES = {'a': (W, H), 'b': (30, 20)}


def make_maps(root: Path, suffix: str = '.jpg') -> None:
    for i, (name, size) in enumerate(SIZES.items()):
        save_image(root / 'img' / f'{name}{suffix}', size)
        save_map(root, name, np.arange(size[0] * size[1]).reshape(size[1], size[0]) % 3 + 0 * i)


def save_map(root: Path, name: str, labels: np.ndarray, mode: str | None = None) -> None:
    (root / 'ann').mkdir(exist_ok=True)
    image = Image.fromarray(labels if labels.dtype == np.uint16 else labels.astype(np.uint8))
    if mode == 'P':
        image.putpalette(bytes(range(256)) * 3)
    (image.convert(mode) if mode == 'RGB' else image).save(root / 'ann' / f'{name}.png')


def map_config(root: Path, **changes: Any) -> dict[str, Any]:
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(classes=('x', 'y', 'z')),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    model = dict(type='EncoderDecoder', decode_head=dict(num_classes=3), auxiliary_head=[dict(num_classes=3)])
    return dict(
        default_scope='mmseg',
        model=model,
        train_dataloader=dict(dataset={**dataset, **changes}),
        val_evaluator=dict(type='IoUMetric'),
    )


def full(value: int, name: str = 'a', dtype: type = np.uint8) -> np.ndarray:
    return np.full(SIZES[name][::-1], value, dtype=dtype)


def set_both(root: Path, values: list[int], dtype: type = np.uint8) -> None:
    for name, size in SIZES.items():
        save_map(root, name, np.array(values, dtype)[np.arange(size[0] * size[1]).reshape(size[::-1]) % len(values)])


WRONG_MAPS: dict[str, tuple[Callable[[Path], object], str]] = {
    '0 and 255': (lambda r: set_both(r, [0, 255]), 'label maps hold 0 and 255 only, as pictures of a mask do'),
    'all ignored': (lambda r: set_both(r, [255]), 'every pixel of every label map is ignored'),
    'beyond the classes': (lambda r: save_map(r, 'a', full(3)), '1 label maps hold labels other than 0 to 2'),
    '16 bits': (lambda r: set_both(r, [0, 1, 256], np.uint16), '2 label maps hold labels other than 0 to 2'),
    'colours': (lambda r: save_map(r, 'a', full(1), 'RGB'), 'it holds colours (RGB), not one number per pixel'),
    'turned image': (
        lambda r: save_image(r / 'img' / 'a.jpg', (W, H), TURNED),
        f'1 label maps are of another size than their image, e.g. a: image {H}x{W} once it is turned',
    ),
    'one pixel': (
        lambda r: (save_image(r / 'img' / 'a.jpg', (1, 1)), save_map(r, 'a', np.zeros((1, 1)))),
        '1 images are one pixel wide or high, e.g. a.jpg is 1x1',
    ),
    'no images': (lambda r: [path.unlink() for path in r.glob('img/*')], 'the loader yields no image'),
    'suffix in capitals': (
        lambda r: [path.rename(path.with_suffix('.JPG')) for path in r.glob('img/*')],
        'the loader yields no image',
    ),
}


@pytest.mark.parametrize('name', WRONG_MAPS)
def test_label_maps_that_train_wrongly_are_refused(tmp_path: Path, name: str):
    make_maps(tmp_path)
    assert judge(map_config(tmp_path))[0] == []
    WRONG_MAPS[name][0](tmp_path)
    wrong = judge(map_config(tmp_path))[0]
    assert any(WRONG_MAPS[name][1] in sentence for sentence in wrong), wrong


def test_label_maps_that_the_loader_reads_pass(tmp_path: Path):
    make_maps(tmp_path, '.tif')
    cfg = map_config(tmp_path, img_suffix='.tif')
    assert judge(cfg)[0] == []
    set_both(tmp_path, [0, 1, 2], np.uint16)
    assert judge(cfg)[0] == []
    save_map(tmp_path, 'a', full(2), 'P')  # Pillow gives the numbers, OpenCV the colours
    assert judge(cfg)[0] == []
    cfg['train_dataloader']['dataset']['pipeline'][1]['imdecode_backend'] = 'cv2'
    assert 'it holds colours (RGB)' in judge(cfg)[0][0]
    save_map(tmp_path, 'extra', full(1))
    save_image(tmp_path / 'img' / 'extra.jpg')
    save_map(tmp_path, 'a', full(2))
    assert judge(cfg)[0] == []


def test_a_turned_image_with_a_turned_label_map_passes(tmp_path: Path):
    make_maps(tmp_path)
    save_image(tmp_path / 'img' / 'a.jpg', (H, W), TURNED)
    assert judge(map_config(tmp_path))[0] == []


def test_the_list_of_images_decides(tmp_path: Path):
    make_maps(tmp_path)
    (tmp_path / 'ann' / 'b.png').unlink()
    assert 'train: 1 images have no label map, e.g. b.jpg' in judge(map_config(tmp_path))[0]
    (tmp_path / 'train.txt').write_text('a\n')
    assert judge(map_config(tmp_path, ann_file='train.txt'))[0] == []
    (tmp_path / 'train.txt').write_text('a\nc\n')
    wrong = judge(map_config(tmp_path, ann_file='train.txt'))[0]
    assert 'train: 1 images that the list names are missing, e.g. c.jpg' in wrong


def test_what_is_ignored_is_what_the_config_says(tmp_path: Path):
    make_maps(tmp_path)
    set_both(tmp_path, [0, 1, 2, 3])
    cfg = map_config(tmp_path)
    assert '2 label maps hold labels other than 0 to 2' in judge(cfg)[0][0]
    cfg['model']['decode_head']['ignore_index'] = 3
    assert judge(cfg)[0] == []
    zero_is_other = map_config(tmp_path, reduce_zero_label=True)
    assert judge(zero_is_other)[0] == []
    set_both(tmp_path, [0, 255])
    assert 'every pixel of every label map is ignored' in judge(zero_is_other)[0][0]


def test_pipeline_and_data_set_agree_on_the_zero_label(tmp_path: Path):
    make_maps(tmp_path)
    cfg = map_config(tmp_path)
    cfg['val_dataloader'] = copy.deepcopy(cfg['train_dataloader'])
    cfg['train_dataloader']['dataset']['pipeline'][1]['reduce_zero_label'] = True  # mmseg ends in an assertion
    assert 'reduce_zero_label is True in LoadAnnotations and False in the data set' in judge(cfg)[0][0]


def test_classes_heads_and_what_never_occurs(tmp_path: Path):
    make_maps(tmp_path)
    set_both(tmp_path, [0, 2])
    cfg = map_config(tmp_path)
    assert judge(cfg) == ([], ['train: 1 classes never occur, e.g. class 1'])
    cfg['model']['auxiliary_head'][0]['num_classes'] = 19
    wrong = ['train: model.auxiliary_head[0].num_classes is 19, and the data set has 3 classes']
    assert judge(cfg, 'names')[0] == wrong


def test_a_test_set_without_labels_leaves_the_others_to_be_judged(tmp_path: Path):
    make_maps(tmp_path)
    cfg = map_config(tmp_path)
    dataset = {**cfg['train_dataloader']['dataset'], 'data_prefix': dict(img_path='img')}
    cfg['test_dataloader'] = dict(dataset=dataset)
    assert judge(cfg)[0] == []
    (tmp_path / 'ann' / 'a.png').unlink()
    assert judge(cfg)[0] == ['train: 1 images have no label map, e.g. a.jpg']


def test_class_folders_of_mmpretrain_are_judged_by_what_it_yields(tmp_path: Path):
    pytest.importorskip('mmpretrain')
    for name in ('cat/a.jpg', 'cat/b.tif', 'dog/c.png'):
        save_image(tmp_path / 'train' / name)
    dataset = dict(type='CustomDataset', data_root=str(tmp_path), data_prefix='train', pipeline=[])
    cfg = dict(default_scope='mmpretrain', model=dict(head=dict(num_classes=2)), train_dataloader=dict(dataset=dataset))
    assert judge(cfg) == ([], [])
    (tmp_path / 'list.txt').write_text('cat/a.jpg 0\ndog/c.png 2\ndog/d.png 1\n')
    dataset.update(ann_file='list.txt', classes=('cat', 'dog'))
    wrong, _ = judge(cfg)
    folder = tmp_path / 'train' / 'dog'
    assert wrong == [
        f'train: 1 images are of a class outside 0 to 1, e.g. {folder}/c.png (2)',
        f'train: 1 images are missing, e.g. {folder}/d.png',
    ]
    del dataset['ann_file'], dataset['classes']
    (tmp_path / 'train' / '.ipynb_checkpoints').mkdir()  # a folder is a class
    assert judge(cfg)[0] == ['train: model.head.num_classes is 2, and the data set has 3 classes']
