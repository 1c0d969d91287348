"""Check one split of a data set in COCO's format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .check_files import How, files_in, image_size
from .check_findings import Findings

SUFFIXES = ('.jpg', '.jpeg', '.png')
SLACK = 2.0  # pixels that a box may stick out of its image: COCO's own are rounded


@dataclass(frozen=True)
class CocoPart:
    """One annotation file with its images.

    Attributes:
        name: for sentences.
        ann_file, image_dir: where they are.
        classes: names of categories that the file must have, or None for any.
        published: numbers of images and of annotations in the published file, or None.
    """

    name: str
    ann_file: Path
    image_dir: Path
    classes: tuple[str, ...] | None = None
    published: tuple[int, int] | None = None

    def check(self, how: How) -> Findings:
        """Look at the annotations, then at the images that they name."""
        findings = Findings(self.name)
        content = _load(self.ann_file, findings)
        if content is None:
            return findings
        images = _images(content['images'], findings)
        images_published, annotations_published = self.published or (None, None)
        findings.compare('images', len(content['images']), images_published)
        findings.compare('annotations', len(content['annotations']), annotations_published)
        categories = _categories(content['categories'], self.classes, findings)
        _check_annotations(content['annotations'], images, categories, findings)
        self._check_files(list(images.values()), how, findings)
        return findings

    def _check_files(self, images: list[dict], how: How, findings: Findings) -> None:
        present = files_in(self.image_dir, SUFFIXES, findings)
        if present is None:
            return
        named = {image['file_name']: image for image in images}
        for name in named:
            if name not in present:
                findings.add('{n} images that the annotations name are missing', name)
        for name in present:
            if name not in named:
                findings.add('{n} images are not named by the annotations and stay unused', name, note=True)
        if how.depth == 'names':
            return
        names = [name for name in named if name in present]
        sizes = how.map(lambda name: image_size(present[name], how.depth), names, f'{self.name} images')
        for name, size in zip(names, sizes, strict=True):
            stated = (named[name]['width'], named[name]['height'])
            if isinstance(size, str):
                findings.add('{n} images cannot be read', f'{name} ({size})')
            elif size != stated:
                example = f'{name} is {size[0]}x{size[1]}, not {stated[0]}x{stated[1]}'
                findings.add('{n} images are of another size than the annotations say', example)


def _load(path: Path, findings: Findings) -> dict[str, Any] | None:
    if not path.is_file():
        findings.add(f'the annotation file {path} does not exist')
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        findings.add(f'the annotation file {path} is no JSON: {error}')
        return None
    parts = ('images', 'annotations', 'categories')
    for part in parts:
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            findings.add(
                f'the annotation file {path} has no list {part!r}; it has to be in the format of COCO instances'
            )
            return None
    return content


def _images(entries: list[dict], findings: Findings) -> dict[Any, dict]:
    """The usable image entries by their id."""
    images: dict[Any, dict] = {}
    for entry in entries:
        sides = (entry.get('width'), entry.get('height'))
        if 'id' not in entry or not entry.get('file_name') or not all(isinstance(s, int) and s > 0 for s in sides):
            findings.add('{n} image entries lack an id, a file_name, a width or a height', str(entry)[:80])
        elif entry['id'] in images:
            findings.add('{n} image entries have the id of another image', f'id {entry["id"]}')
        else:
            images[entry['id']] = entry
    return images


def _categories(entries: list[dict], classes: tuple[str, ...] | None, findings: Findings) -> set:
    names = [entry.get('name') for entry in entries]
    for name in classes or ():
        if name not in names:
            findings.add('{n} classes are not among the categories of the annotation file', str(name))
    ids = [entry.get('id') for entry in entries]
    for i in {i for i in ids if ids.count(i) > 1}:
        findings.add('{n} category ids are used twice', f'id {i}')
    return set(ids)


def _check_annotations(entries: list[dict], images: dict[Any, dict], categories: set, findings: Findings) -> None:
    ids: set = set()
    for entry in entries:
        where = f'annotation {entry.get("id")}'
        if entry.get('id') in ids:
            findings.add('{n} annotations have the id of another annotation', where)
        ids.add(entry.get('id'))
        if entry.get('category_id') not in categories:
            findings.add('{n} annotations are of an unknown category', f'{where} (category {entry.get("category_id")})')
        image = images.get(entry.get('image_id'))
        if image is None:
            findings.add('{n} annotations are of an unknown image', f'{where} (image {entry.get("image_id")})')
        else:
            _check_place(entry, image, where, findings)
    empty = set(images) - {entry.get('image_id') for entry in entries}
    for i in sorted(empty, key=str):
        findings.add('{n} images have no annotation', images[i]['file_name'], note=True)


def _check_place(entry: dict, image: dict, where: str, findings: Findings) -> None:
    """Box and mask of an annotation against the size of its image."""
    box = entry.get('bbox')
    if not _is_box(box):
        findings.add('{n} annotations have no box of four finite numbers', where)
        return
    x, y, w, h = box
    size = f'{image["width"]}x{image["height"]}'
    if min(x, y) < -SLACK or x + w > image['width'] + SLACK or y + h > image['height'] + SLACK:
        findings.add('{n} boxes reach out of their image', f'{where} ({box} in {size})')
    elif w < 1 or h < 1:
        findings.add('{n} boxes are smaller than a pixel; mmdet skips them', f'{where} ({box})', note=True)
    mask = entry.get('segmentation')
    if isinstance(mask, dict) and list(mask.get('size', ())) != [image['height'], image['width']]:
        findings.add('{n} masks are of another size than their image', f'{where} ({mask.get("size")} in {size})')


def _is_box(box: Any) -> bool:
    numbers: Iterable = box if isinstance(box, list) else ()
    return len(list(numbers)) == 4 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)
