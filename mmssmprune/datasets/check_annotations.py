"""The rules for COCO's annotation file, entry by entry, before any loader hides what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .check_findings import Findings
from .check_masks import good_polygons, is_number, mask_problem

SLACK = 2.0  # pixels that a box may stick out of its image: COCO's own are rounded


def load_coco(path: Path, findings: Findings, labelled: bool = True) -> dict[str, list[dict]] | None:
    """Images, annotations and categories of a file; None, and a finding, if it is not in COCO's format.

    Without ``labelled`` the annotations may be missing.
    """
    if not path.is_file():
        findings.add(f'the annotation file {path} does not exist')
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        findings.add(f'the annotation file {path} is no JSON: {error}')
        return None
    except OSError as error:
        findings.add(f'the annotation file {path} cannot be read: {error.strerror}')
        return None
    parts = ('images', 'annotations', 'categories')
    if isinstance(content, dict) and not labelled:
        content.setdefault('annotations', [])
    for part in parts:
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            findings.add(
                f'the annotation file {path} has no list {part!r}; it has to be in the format of COCO instances'
            )
            return None
    return content


def is_id(value: Any) -> bool:
    """Whether pycocotools can look something up by it."""
    return isinstance(value, str) or is_number(value)


def _shown(entry: dict) -> str:
    return ascii(entry)[:80] if len(entry) < 20 else '{...}'


def usable_images(entries: list[dict], findings: Findings) -> dict[Any, dict]:
    """The usable image entries by their id."""
    images: dict[Any, dict] = {}
    for entry in entries:
        sides = (entry.get('width'), entry.get('height'))
        named = isinstance(entry.get('file_name'), str) and entry['file_name']
        if not is_id(entry.get('id')) or not named or not all(is_number(side) and side > 0 for side in sides):
            findings.add(
                '{n} image entries lack an id, a file_name, a width or a height, or hold something other than '
                'a text in file_name and numbers in the others',
                _shown(entry),
            )
        elif entry['id'] in images:
            findings.add('{n} image entries have the id of another image', f'id {entry["id"]}')
        else:
            images[entry['id']] = entry
    return images


def usable_categories(entries: list[dict], classes: tuple[str, ...] | None, findings: Findings) -> dict[Any, Any]:
    """Name of each usable category by its id."""
    names = [entry.get('name') for entry in entries]
    findings.class_order = tuple(name for name in names if isinstance(name, str) and (not classes or name in classes))
    for name in classes or ():
        if name not in names:
            findings.add('{n} classes are not among the categories of the annotation file', str(name))
        elif names.count(name) > 1:
            findings.add('{n} classes are the name of several categories', str(name))
    if classes and set(classes) == set(findings.class_order) and findings.class_order != classes:
        findings.add('the categories stand in another order than the classes of the config; theirs counts', note=True)
    categories: dict[Any, Any] = {}
    for entry in entries:
        if not is_id(entry.get('id')):
            findings.add('{n} categories have no id that is a number or a text', _shown(entry))
        elif entry['id'] in categories:
            findings.add('{n} category ids are used twice', f'id {entry["id"]}')
        else:
            categories[entry['id']] = entry.get('name')
    return categories


def check_annotations(
    entries: list[dict], images: dict[Any, dict], categories: dict, used: set, findings: Findings
) -> None:
    """Ids, boxes and flags against the usable images and categories; ``used`` are ids of the config's classes."""
    ids: set = set()
    annotated: set = set()
    corners: list[str] = []
    for entry in entries:
        i, where = entry.get('id'), f'annotation {ascii(entry.get("id"))[:40]}'
        if not is_id(i):
            findings.add('{n} annotations have no id that is a number or a text', _shown(entry))
        elif i in ids:
            findings.add('{n} annotations have the id of another annotation', where)
        else:
            ids.add(i)
        category, image_id = entry.get('category_id'), entry.get('image_id')
        if not is_id(category) or category not in categories:
            findings.add('{n} annotations are of an unknown category', f'{where} (category {ascii(category)[:40]})')
        elif category not in used:
            findings.add('{n} annotations are of classes that the config leaves out', where, note=True)
        if not is_id(image_id) or image_id not in images:
            findings.add('{n} annotations are of an unknown image', f'{where} (image {ascii(image_id)[:40]})')
            continue
        annotated.add(image_id)
        _check_flags(entry, where, findings)
        _check_box(entry, images[image_id], where, findings)
        if _only_fits_as_corners(entry):
            corners.append(where)
    if len(corners) > len(entries) / 2:  # a single one may be chance
        findings.add(f'{len(corners)} boxes are x1, y1, x2, y2; COCO wants x, y, width, height', corners[0])
    for i in sorted(set(images) - annotated, key=str):
        findings.add('{n} images have no annotation', images[i]['file_name'], note=True)


def _check_flags(entry: dict, where: str, findings: Findings) -> None:
    area = entry.get('area')
    if not is_number(area):
        findings.add('{n} annotations have no area that is a number', where)
    elif area <= 0:
        findings.add('{n} annotations have no area above 0; mmdet skips them', where, note=True)
    if 'iscrowd' not in entry:
        findings.add('{n} annotations have no iscrowd, which an evaluation on them would need', where, note=True)
    elif entry['iscrowd'] not in (0, 1):
        findings.add('{n} annotations have an iscrowd other than 0 or 1', where)
    if entry.get('ignore'):
        findings.add('{n} annotations are to be ignored; mmdet skips them', where, note=True)


def _check_box(entry: dict, image: dict, where: str, findings: Findings) -> None:
    """Box of an annotation against the size of its image."""
    box = entry.get('bbox')
    if not _is_box(box):
        findings.add('{n} annotations have no box of four finite numbers', where)
        return
    x, y, w, h = box
    if min(x, y) < -SLACK or x + w > image['width'] + SLACK or y + h > image['height'] + SLACK:
        example = f'{where} ({box} in {image["width"]:g}x{image["height"]:g})'
        findings.add('{n} boxes reach out of their image', example)
    elif min(w, h) < 0:
        findings.add('{n} boxes have a negative width or height', f'{where} ({box})')
    elif 0 < w < 1 and 0 < h < 1 and x + w <= 1 and y + h <= 1:
        findings.add('{n} boxes lie in 0 to 1, as if relative to the image; COCO wants pixels', f'{where} ({box})')
    elif w < 1 or h < 1:
        findings.add('{n} boxes are smaller than a pixel; mmdet skips them', f'{where} ({box})', note=True)


def is_skipped(entry: dict) -> bool:
    """Whether mmdet leaves an annotation out, so that its mask does not matter to a training."""
    box, area = entry.get('bbox'), entry.get('area')
    return bool(entry.get('ignore')) or (is_number(area) and area <= 0) or (_is_box(box) and min(box[2:]) < 1)


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))


def _only_fits_as_corners(entry: dict) -> bool:
    """Whether mask or area agree with a box only if it is read as x1, y1, x2, y2."""
    box, mask, area = entry.get('bbox'), entry.get('segmentation'), entry.get('area')
    if not _is_box(box) or not (box[2] > box[0] and box[3] > box[1]):
        return False
    x, y, a, b = box
    if isinstance(mask, list) and mask and mask_problem(mask, 0, 0) is None:
        points = [value for part in good_polygons(mask) for value in part]
        end = (max(points[::2]), max(points[1::2]))
        as_corners, as_size = ((max(abs(end[0] - u), abs(end[1] - v))) for u, v in ((a, b), (x + a, y + b)))
        return as_corners <= SLACK < as_size
    if not is_number(area) or isinstance(mask, dict):
        return False
    return abs(area - (a - x) * (b - y)) <= 1e-3 * area and abs(area - a * b) > 0.1 * area


def check_masks(entries: list[dict], images: dict[Any, dict], used: set, findings: Findings) -> None:
    """A finding for each ``segmentation`` that cannot be made into a mask."""
    for entry in entries:
        ids = (entry.get('image_id'), entry.get('category_id'))
        if not all(map(is_id, ids)) or ids[0] not in images or ids[1] not in used:
            continue
        image, mask = images[ids[0]], entry.get('segmentation')
        problem = mask_problem(mask, image['height'], image['width'])
        if problem is not None:
            example = f'annotation {entry.get("id")}'
            if problem.startswith('are of another size'):
                example += f' ({mask.get("size")} in {image["width"]:g}x{image["height"]:g})'
            findings.add(f'{{n}} masks {problem}', example)
        elif isinstance(mask, list) and len(good_polygons(mask)) < len(mask):
            findings.add(
                '{n} masks have parts of under three points, which mmdet skips', str(entry.get('id')), note=True
            )
