"""Blood cells (BCCD): Pascal VOC's folders BCCD/{Annotations,JPEGImages,ImageSets/Main} as COCO."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import cv2

from .prepare import new_folder, read_pixels, sub_folder, write_annotations

LAYOUT = 'BCCD/Annotations/*.xml, BCCD/JPEGImages/*.jpg and BCCD/ImageSets/Main/{train,val,test}.txt'
SPLITS = ('train', 'val', 'test')
CELLS = ('RBC', 'WBC', 'Platelets')


def prepare_bccd(source: Path, root: Path) -> list[str]:
    """Write ``root``/{train,val,test}/*.jpg and ``root``/annotations/instances_{train,val,test}.json.

    Pascal VOC counts pixels from 1 and includes the last one. Boxes are cut at the border of their image, and those of
    which nothing is left are skipped.

    Args:
        source: the folder BCCD of the download.
        root: new folder.

    Returns:
        One sentence per split.

    Raises:
        OSError, ValueError: something is missing, unreadable or not as it should be; then nothing is written.
    """
    names = {split: _names(source, split) for split in SPLITS}
    first, told = 1, []
    with new_folder(root) as partial:
        for split in SPLITS:
            told.append(f'{split}: {_write_split(source, partial, split, names[split], first)}')
            first += len(names[split])
    return told


def _names(source: Path, split: str) -> list[str]:
    listed = sub_folder(source, 'ImageSets/Main', LAYOUT) / f'{split}.txt'
    if not listed.is_file():
        raise FileNotFoundError(f'{listed} is missing; expected is {LAYOUT}')
    names = listed.read_text(encoding='utf-8', errors='replace').split()
    bad = [name for name in names if Path(name).name != name or name.startswith('.')]
    if bad or not names:
        raise ValueError(f'{listed} must list names of images, one a line, got {bad[0] if bad else "none"!r}')
    return names


def _write_split(source: Path, root: Path, split: str, names: list[str], first: int) -> str:
    folders = sub_folder(source, 'JPEGImages', LAYOUT), sub_folder(source, 'Annotations', LAYOUT)
    (root / split).mkdir()
    images, annotations, skipped = [], [], 0
    for number, name in enumerate(names, start=first):
        image, xml = folders[0] / f'{name}.jpg', folders[1] / f'{name}.xml'
        for path in (image, xml):
            if not path.is_file():
                raise FileNotFoundError(f'{path} is missing; {split}.txt lists it')
        height, width = read_pixels(image, cv2.IMREAD_COLOR).shape[:2]
        shutil.copyfile(image, root / split / image.name)
        images.append(dict(id=number, file_name=image.name, width=width, height=height))
        for category, corners in _boxes(xml):
            left, top = max(corners[0] - 1, 0), max(corners[1] - 1, 0)
            w, h = min(corners[2], width) - left, min(corners[3], height) - top
            if w <= 0 or h <= 0:
                skipped += 1
                continue
            fields = dict(id=len(annotations) + 1, image_id=number, category_id=category, iscrowd=0)
            annotations.append(dict(**fields, bbox=[left, top, w, h], area=w * h))
    write_annotations(root / 'annotations' / f'instances_{split}.json', images, annotations, CELLS)
    return f'{len(images)} images with {len(annotations)} boxes, {skipped} empty boxes skipped'


def _boxes(path: Path) -> list[tuple[int, tuple[int, int, int, int]]]:
    """(category from 1, (xmin, ymin, xmax, ymax)) of every object; raises ValueError for what is no annotation."""
    content = path.read_bytes()
    if b'<!' in content.replace(b'<!--', b''):
        raise ValueError(f'{path} declares a document type or entities, which an annotation does not need')
    try:
        return [_box(found) for found in ElementTree.fromstring(content).iter('object')]
    except (ElementTree.ParseError, ValueError, OverflowError, LookupError) as error:
        raise ValueError(f'{path} is no Pascal VOC annotation of {", ".join(CELLS)}: {error}') from None


def _box(found: ElementTree.Element) -> tuple[int, tuple[int, int, int, int]]:
    name = found.findtext('name', '').strip()
    if name not in CELLS:
        raise ValueError(f'an object is named {name!r}')
    corners = [found.findtext(f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')]
    if None in corners:
        raise ValueError(f'an object {name} has no whole bndbox')
    return 1 + CELLS.index(name), tuple(round(float(corner)) for corner in corners)
