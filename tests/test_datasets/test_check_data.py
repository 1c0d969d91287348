"""Every defect of a data set is found and named, and a whole one passes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from stand_in_data import make_ade20k, make_coco, noise_image

from mmssmprune.datasets.check_class_folders import ClassFolderPart
from mmssmprune.datasets.check_coco import CocoPart
from mmssmprune.datasets.check_files import How
from mmssmprune.datasets.check_findings import Findings
from mmssmprune.datasets.check_label_maps import LabelMapPart
from mmssmprune.datasets.check_parts import parts_of_config, published_parts

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
HOW = How(workers=2)
EVERYTHING = How('pixels', workers=2)


@pytest.fixture(scope='module')
def whole_coco(tmp_path_factory) -> Path:
    return make_coco(tmp_path_factory.mktemp('coco'), train=3) / 'coco'


@pytest.fixture(scope='module')
def whole_ade(tmp_path_factory) -> Path:
    return make_ade20k(tmp_path_factory.mktemp('ade'), train=3) / 'ade' / 'ADEChallengeData2016'


def coco_train(root: Path) -> CocoPart:
    return replace(published_parts('coco', root)[0], published=(3, 30))


def ade_train(root: Path) -> LabelMapPart:
    return replace(published_parts('ade', root)[0], published=3)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def resave(path: Path, size: tuple[int, int]) -> None:
    noise_image(np.random.default_rng(1), size[1], size[0]).save(path)


def set_label(path: Path, label: int, old: int | None = None) -> None:
    pixels = np.array(Image.open(path))
    pixels[(pixels == old) if old is not None else (slice(0, 3), slice(0, 3))] = label
    Image.fromarray(pixels).save(path)


def test_whole_sets_pass(whole_coco: Path, whole_ade: Path):
    for part in (coco_train(whole_coco), ade_train(whole_ade)):
        findings = part.check(EVERYTHING)
        assert findings.sentences() == []
        assert findings.seen[0] == '3 images'


def test_counts_are_those_of_the_published_sets(whole_coco: Path, whole_ade: Path):
    coco = [part.check(HOW).sentences() for part in published_parts('coco', whole_coco)]
    assert coco[0] == [
        'there are 3 images, and the published set has 118287',
        'there are 30 annotations, and the published set has 860001',
    ]
    assert 'there are 1 images, and the published set has 5000' in coco[1]
    ade = [part.check(HOW).sentences() for part in published_parts('ade', whole_ade)]
    assert [sentences[0].split()[-1] for sentences in ade] == ['20210', '2000']


IMAGE = 'train2017/000000000001.jpg'
ANN_FILE = 'annotations/instances_train2017.json'
COCO_DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    'no annotation file': (lambda r: (r / ANN_FILE).unlink(), 'instances_train2017.json does not exist'),
    'half a download': (lambda r: os.truncate(r / ANN_FILE, 2000), 'is no JSON'),
    'captions': (lambda r: edit(r / ANN_FILE, lambda c: c.pop('categories')), "has no list 'categories'"),
    'no folder': (lambda r: shutil.rmtree(r / 'train2017'), 'train2017 does not exist'),
    'empty folder': (
        lambda r: (shutil.rmtree(r / 'train2017'), (r / 'train2017').mkdir()),
        'train2017 holds no .jpg or .jpeg or .png files',
    ),
    'missing image': (
        lambda r: (r / IMAGE).unlink(),
        '1 images that the annotations name are missing, e.g. 000000000001.jpg',
    ),
    'empty image': (lambda r: (r / IMAGE).write_bytes(b''), '1 images cannot be read, e.g. 000000000001.jpg'),
    'other size': (
        lambda r: resave(r / IMAGE, (320, 240)),
        '1 images are of another size than the annotations say, e.g. 000000000001.jpg is 320x240, not 640x480',
    ),
    'category': (
        lambda r: edit(r / ANN_FILE, lambda c: c['annotations'][4].update(category_id=0)),
        '1 annotations are of an unknown category, e.g. annotation 4 (category 0)',
    ),
    'other classes': (
        lambda r: edit(r / ANN_FILE, lambda c: c['categories'][0].update(name='human')),
        '1 classes are not among the categories of the annotation file, e.g. person',
    ),
    'category id twice': (
        lambda r: edit(r / ANN_FILE, lambda c: c['categories'][1].update(id=1)),
        '1 category ids are used twice, e.g. id 1',
    ),
    'image id': (
        lambda r: edit(r / ANN_FILE, lambda c: c['annotations'][0].update(image_id=99)),
        '1 annotations are of an unknown image, e.g. annotation 0 (image 99)',
    ),
    'image twice': (
        lambda r: edit(r / ANN_FILE, lambda c: c['images'].append(c['images'][0])),
        '1 image entries have the id of another image, e.g. id 0',
    ),
    'no width': (
        lambda r: edit(r / ANN_FILE, lambda c: c['images'][2].pop('width')),
        '1 image entries lack an id, a file_name, a width or a height',
    ),
    'annotation twice': (
        lambda r: edit(r / ANN_FILE, lambda c: c['annotations'].append(c['annotations'][3])),
        '1 annotations have the id of another annotation, e.g. annotation 3',
    ),
    'box outside': (
        lambda r: edit(r / ANN_FILE, lambda c: c['annotations'][1].update(bbox=[600, 10, 50, 20])),
        '1 boxes reach out of their image, e.g. annotation 1 ([600, 10, 50, 20] in 640x480)',
    ),
    'no box': (
        lambda r: edit(r / ANN_FILE, lambda c: c['annotations'][1].update(bbox=[1, 2, float('nan'), 3])),
        '1 annotations have no box of four finite numbers, e.g. annotation 1',
    ),
    'mask': (
        lambda r: edit(
            r / ANN_FILE, lambda c: c['annotations'][1].update(segmentation={'size': [640, 480], 'counts': ''})
        ),
        '1 masks are of another size than their image, e.g. annotation 1 ([640, 480] in 640x480)',
    ),
}


@pytest.mark.parametrize('defect', COCO_DEFECTS)
def test_coco_defects(tmp_path: Path, whole_coco: Path, defect: str):
    spoil, sentence = COCO_DEFECTS[defect]
    root = Path(shutil.copytree(whole_coco, tmp_path / 'coco'))
    spoil(root)
    assert any(sentence in found for found in coco_train(root).check(HOW).sentences())


def test_what_the_loaders_cope_with_is_a_note(tmp_path: Path, whole_coco: Path):
    root = Path(shutil.copytree(whole_coco, tmp_path / 'coco'))
    resave(root / 'train2017' / 'extra.jpg', (64, 64))
    edit(root / ANN_FILE, lambda c: c['annotations'][0].update(bbox=[5, 5, 0, 4]))
    findings = coco_train(root).check(HOW)
    assert not findings.wrong
    assert [text.split(',')[0] for text in findings.sentences(notes=True)] == [
        '1 boxes are smaller than a pixel; mmdet skips them',
        '1 images are not named by the annotations and stay unused',
    ]


ADE_IMAGE, ADE_LABEL = 'images/training/ADE_00000001.jpg', 'annotations/training/ADE_00000001.png'
ADE_DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    'no folder': (lambda r: shutil.rmtree(r / 'annotations'), 'annotations/training does not exist'),
    'missing label': (lambda r: (r / ADE_LABEL).unlink(), '1 images have no label map, e.g. ADE_00000001.jpg'),
    'missing image': (lambda r: (r / ADE_IMAGE).unlink(), '1 label maps have no image, e.g. ADE_00000001.png'),
    'count': (lambda r: (r / ADE_IMAGE).unlink(), 'there are 2 images, and the published set has 3'),
    'size': (
        lambda r: resave(r / ADE_IMAGE, (320, 240)),
        '1 label maps are of another size than their image, e.g. ADE_00000001: image 320x240, labels 683x512',
    ),
    'label': (
        lambda r: set_label(r / ADE_LABEL, 151),
        '1 label maps hold labels other than 0 to 150, e.g. ADE_00000001 holds 151',
    ),
    'colours': (lambda r: resave(r / ADE_LABEL, (683, 512)), 'it holds colours (RGB), not one number per pixel'),
    'damaged label': (lambda r: os.truncate(r / ADE_LABEL, 600), '1 label maps cannot be used, e.g. ADE_00000001.png'),
    'empty image': (lambda r: (r / ADE_IMAGE).write_bytes(b''), '1 images cannot be read, e.g. ADE_00000001.jpg'),
    'shifted labels': (
        lambda r: [(set_label(p, 255, old=0), set_label(p, 1, old=150)) for p in r.glob('annotations/training/*')],
        'labels hold 255 and never 150, as if they counted from 0 already',
    ),
}


@pytest.mark.parametrize('defect', ADE_DEFECTS)
def test_ade_defects(tmp_path: Path, whole_ade: Path, defect: str):
    spoil, sentence = ADE_DEFECTS[defect]
    root = Path(shutil.copytree(whole_ade, tmp_path / 'ade'))
    spoil(root)
    assert any(sentence in found for found in ade_train(root).check(HOW).sentences())


def test_a_cut_image_needs_the_pixels(tmp_path: Path, whole_ade: Path):
    root = Path(shutil.copytree(whole_ade, tmp_path / 'ade'))
    os.truncate(root / ADE_IMAGE, (root / ADE_IMAGE).stat().st_size // 2)
    assert not ade_train(root).check(HOW).wrong
    assert '1 images cannot be read' in ade_train(root).check(EVERYTHING).sentences()[0]
    (root / ADE_IMAGE).write_bytes(b'')
    assert not ade_train(root).check(How('names')).wrong


def test_class_folders(tmp_path: Path):
    for name in ('train/n01/a.JPEG', 'train/n01/b.JPEG', 'train/n02/c.JPEG'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        resave(tmp_path / name, (64, 48))
    part = ClassFolderPart('train', tmp_path / 'train', num_classes=2, published=3)
    assert part.check(EVERYTHING).sentences() == []
    (tmp_path / 'train' / 'n01' / 'a.JPEG').write_bytes(b'no image')
    (tmp_path / 'train' / 'n02' / 'c.JPEG').rename(tmp_path / 'train' / 'c.JPEG')
    (tmp_path / 'train' / 'n03').mkdir()
    assert [sentence.split(',')[0] for sentence in part.check(HOW).sentences()] == [
        'there are 3 class folders',
        '2 class folders are empty',
        '1 images are in no class folder',
        '1 images cannot be read',
    ]
    imagenet = published_parts('imagenet', tmp_path)
    assert 'there are 3 images, and the published set has 1281167' in imagenet[0].check(How('names')).sentences()
    assert imagenet[1].check(HOW).sentences() == [f'the folder {tmp_path}/val does not exist']


def test_a_list_of_images_stands_in_for_class_folders(tmp_path: Path):
    (tmp_path / 'val').mkdir()
    for name in ('a.JPEG', 'b.JPEG', 'c.JPEG'):
        resave(tmp_path / 'val' / name, (64, 48))
    (tmp_path / 'val.txt').write_text('a.JPEG 0\nb.JPEG 4\nc.JPEG 1\n')
    part = ClassFolderPart('val', tmp_path / 'val', 5, published=3, ann_file=tmp_path / 'val.txt')
    assert part.check(HOW).sentences() == []
    (tmp_path / 'val.txt').write_text('a.JPEG 0\nb.JPEG 5\nd.JPEG 1\n')
    assert part.check(HOW).sentences() == [
        f'1 lines of {tmp_path}/val.txt do not end in a class from 0 to 4, e.g. b.JPEG 5',
        f'1 images that {tmp_path}/val.txt names are missing, e.g. d.JPEG',
    ]


def test_parts_of_a_config(monkeypatch: pytest.MonkeyPatch, whole_coco: Path, whole_ade: Path):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(whole_coco.parent))
    detection = 'plain_mamba/plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'
    parts = parts_of_config(Config.fromfile(CONFIGS / detection))
    assert parts == [
        replace(p, name=n) for p, n in zip(published_parts('coco', whole_coco), ('train', 'val'), strict=True)
    ]

    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(whole_ade.parents[1]))
    segmentation = 'plain_mamba/plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'
    parts = parts_of_config(Config.fromfile(CONFIGS / segmentation))
    assert parts == [
        replace(p, name=n) for p, n in zip(published_parts('ade', whole_ade), ('train', 'val'), strict=True)
    ]

    mini = 'plain_mamba/plain-mamba-mini_upernet_1xb8-450i_mini-ade-128x128.py'
    (train, val) = parts_of_config(Config.fromfile(CONFIGS / mini))
    assert (train.num_classes, train.reduce_zero_label, train.published, val.name) == (9, True, None, 'val')
    assert train.image_dir == whole_ade.parents[1] / 'mini_ade' / 'images' / 'training'


def test_the_first_examples_and_all_of_the_count():
    findings = Findings('train')
    for i in range(5):
        findings.add('{n} things', f'thing {i}')
    assert findings.sentences() == ['5 things, e.g. thing 0; thing 1; thing 2']
