"""Downloads become the folders of the configs; what does not fit is said in a sentence, and nothing is half written."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle_api
from stand_in_downloads import make_bccd_download, make_camvid_download, make_nuclei_download, save

from mmssmprune.datasets.prepare_bccd import prepare_bccd
from mmssmprune.datasets.prepare_camvid import prepare_camvid
from mmssmprune.datasets.prepare_nuclei import prepare_nuclei


def test_camvid_keeps_frames_and_labels_together(tmp_path: Path):
    source = make_camvid_download(tmp_path, hw=(36, 48))
    assert prepare_camvid(source, tmp_path / 'out')[0] == 'train: 2 frames'
    for split in ('train', 'val', 'test'):
        images = sorted((tmp_path / 'out' / 'images' / split).iterdir())
        labels = sorted((tmp_path / 'out' / 'annotations' / split).iterdir())
        assert (
            [p.stem for p in images]
            == [p.stem for p in labels]
            == [f'Seq_{split}_{i}' for i in range(1 if split == 'test' else 2)]
        )
        read = cv2.imread(str(labels[0]), cv2.IMREAD_UNCHANGED)
        assert read.shape == (36, 48)
        assert np.unique(read).tolist() == list(range(12))
        assert cv2.imread(str(images[0])).shape == (36, 48, 3)


def test_nuclei_become_coco_masks(tmp_path: Path):
    source = make_nuclei_download(tmp_path, images=9)
    prepare_nuclei(source, tmp_path / 'out')
    ids = {}
    for split in ('train', 'val'):
        content = json.loads((tmp_path / 'out' / 'annotations' / f'instances_{split}.json').read_text())
        ids[split] = {image['id'] for image in content['images']}
        assert [image['file_name'] for image in content['images']] == sorted(
            path.name for path in (tmp_path / 'out' / split).iterdir()
        )
        assert content['categories'] == [dict(id=1, name='nucleus')]
        assert len(content['annotations']) == 4 * len(content['images'])  # the empty masks are gone
        second = content['annotations'][1]
        assert second['bbox'] == [50, 50, 21, 20]
        assert second['area'] == 420 == rle_api.area(second['segmentation'])
        assert second['segmentation']['size'] == [256, 320]
    # The ninth is too large. numpy promises that RandomState(0) shuffles like this for ever.
    assert ids['train'] | ids['val'] == set(range(1, 9))
    assert ids['val'] <= {i + 1 for i in np.random.RandomState(0).permutation(9)[:2]}


def test_blood_cells_become_coco_boxes(tmp_path: Path):
    source = make_bccd_download(tmp_path)
    assert prepare_bccd(source, tmp_path / 'out')[1] == 'val: 2 images with 8 boxes, 2 empty boxes skipped'
    content = json.loads((tmp_path / 'out' / 'annotations' / 'instances_val.json').read_text())
    assert [category['name'] for category in content['categories']] == ['RBC', 'WBC', 'Platelets']
    assert [image['id'] for image in content['images']] == [3, 4]
    found = [(a['category_id'], a['bbox']) for a in content['annotations'] if a['image_id'] == 3]
    # Pascal VOC counts from 1, its last pixel belongs to the box, and one box was cut at the border.
    cut = (1, [0, 469, 640, 11])
    assert found == [(2, [68, 315, 218, 165]), (1, [0, 0, 100, 120]), (3, [199, 199, 41, 41]), cut]


WRONG = [
    ('camvid', lambda s: (s / 'valannot' / 'Seq_val_1.png').unlink(), r'Seq_val_1.png has no label map'),
    ('camvid', lambda s: (s / 'test' / 'Seq_test_0.png').write_bytes(b'no image'), 'cannot be read as an image'),
    ('camvid', lambda s: (s / 'test' / 'Seq_test_0.png').write_bytes(b''), 'cannot be read as an image'),
    ('camvid', lambda s: save(np.full((360, 480), 12), s / 'trainannot' / 'Seq_train_0.png'), 'has the label 12'),
    ('camvid', lambda s: save(np.zeros((360, 480, 3)), s / 'trainannot' / 'Seq_train_0.png'), 'has 3 channels'),
    ('camvid', lambda s: save(np.zeros((48, 36)), s / 'trainannot' / 'Seq_train_0.png'), '36x48 pixels and its frame'),
    ('camvid', lambda s: (s / 'val').rename(s / 'validation'), r'no folder val; expected is CamVid/\{train'),
    ('nuclei', lambda s: (s / '0003' / 'masks').rename(s / '0003' / 'mask'), 'no folder masks; expected is stage1'),
    ('nuclei', lambda s: save(np.zeros((9, 9)), s / '0003' / 'masks' / 'mask0.png'), 'has 9x9 pixels and its image'),
    ('nuclei', lambda s: save(np.zeros((9, 9)), s / '0003' / 'images' / 'b.png'), 'has 2 images; expected is one'),
    ('bccd', lambda s: (s / 'JPEGImages' / 'BloodImage_00003.jpg').unlink(), 'is missing; val.txt lists it'),
    ('bccd', lambda s: _rewrite(s, 'RBC', 'XYZ'), 'is no Pascal VOC annotation of RBC, WBC, Platelets: an object is n'),
    ('bccd', lambda s: _rewrite(s, '<xmin>1</xmin>', ''), 'an object RBC has no whole bndbox'),
    ('bccd', lambda s: _rewrite(s, '<xmin>1<', '<xmin>1e999<'), 'is no Pascal VOC annotation'),
    ('bccd', lambda s: _rewrite(s, '</annotation>', ''), 'is no Pascal VOC annotation'),
    ('bccd', lambda s: _rewrite(s, '<annotation>', '<!DOCTYPE a [<!ENTITY b "c">]><annotation>'), 'document type'),
    ('bccd', lambda s: (s / 'ImageSets/Main/test.txt').write_text('../../secret'), "one a line, got '../../secret'"),
    ('bccd', lambda s: (s / 'ImageSets/Main/test.txt').unlink(), 'test.txt is missing; expected is BCCD/Annotations'),
]
MAKE = {
    'camvid': (make_camvid_download, prepare_camvid),
    'nuclei': (make_nuclei_download, prepare_nuclei),
    'bccd': (make_bccd_download, prepare_bccd),
}


def _rewrite(source: Path, old: str, new: str) -> None:
    path = source / 'Annotations' / 'BloodImage_00002.xml'
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(('name', 'spoil', 'said'), WRONG, ids=lambda value: value if isinstance(value, str) else '')
def test_what_is_wrong_is_said_and_nothing_is_written(name: str, spoil, said: str, tmp_path: Path):
    make, prepare = MAKE[name]
    source = make(tmp_path / 'download')
    spoil(source)
    with pytest.raises((OSError, ValueError), match=said):
        prepare(source, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['download']


def test_an_old_folder_is_left_alone(tmp_path: Path):
    (tmp_path / 'out').mkdir()
    with pytest.raises(FileExistsError, match='out is there already; move it away or choose another --out'):
        prepare_bccd(make_bccd_download(tmp_path), tmp_path / 'out')
