"""Check one split of a detection data set: COCO's annotation file as it is, and what the loader makes of it."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .check_files import IMAGE_SUFFIXES, Decoder, How, check_sizes, files_in, loaded_entries
from .check_findings import Findings
from .check_heads import check_heads
from .check_masks import good_polygons, is_number, mask_problem

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
        dataset: what the config builds, not yet loaded; by default a CocoDataset that filters nothing.
        masks: whether the pipeline loads masks, and 'polygons' if it takes nothing else.
        metrics: what CocoMetric computes ('bbox', 'segm') from ``eval_file``.
        labelled: False for test images, which may come without annotations.
        decoder: how the pipeline decodes images.
        heads: number of classes by the path of each head in the config.
    """

    name: str
    ann_file: Path
    image_dir: Path
    classes: tuple[str, ...] | None = None
    published: tuple[int, int] | None = None
    dataset: Any = field(default=None, compare=False, repr=False)
    masks: bool | str = field(default=False, compare=False)
    metrics: tuple[str, ...] = field(default=(), compare=False)
    eval_file: Path | None = field(default=None, compare=False)
    labelled: bool = field(default=True, compare=False)
    decoder: Decoder = field(default=Decoder(), compare=False)
    heads: dict[str, Any] = field(default_factory=dict, compare=False)

    def check(self, how: How) -> Findings:
        """Look at the annotations, at what the loader yields of them, and at the images."""
        from mmdet.datasets import CocoDataset

        findings = Findings(self.name)
        check_heads(self.heads, self.classes and len(self.classes), findings)
        # Other classes of data sets have formats of their own: of these only what they load is judged.
        images: dict[Any, dict] = {}
        if self.dataset is None or type(self.dataset).load_data_list is CocoDataset.load_data_list:
            content = load_coco(self.ann_file, findings, self.labelled)
            if content is None:
                return findings
            images = self._check_content(content, findings)
            classes = self.classes or tuple(str(entry.get('name')) for entry in content['categories'])
            del content  # the loader reads it again, and COCO's takes gigabytes
        else:
            classes = self.classes or ()
        dataset = self.dataset
        if dataset is None:  # no `or`: asking for its truth would load it
            dataset = CocoDataset(
                ann_file=str(self.ann_file),
                data_prefix=dict(img=str(self.image_dir)),
                metainfo=dict(classes=classes),
                lazy_init=True,
            )
        entries = loaded_entries(dataset, findings)
        if entries is not None:
            self._check_entries(entries, classes, findings)
        self._check_files(images, entries, how, findings)
        return findings

    def _check_content(self, content: dict[str, list[dict]], findings: Findings) -> dict[Any, dict]:
        images = _images(content['images'], findings)
        images_published, annotations_published = self.published or (None, None)
        findings.compare('images', len(content['images']), images_published)
        if self.labelled or content['annotations']:
            findings.compare('annotations', len(content['annotations']), annotations_published)
        else:
            findings.add('there are no annotations, so that predictions can be written but not judged', note=True)
        categories = _categories(content['categories'], self.classes, findings)
        used = {i for i, name in categories.items() if not self.classes or name in self.classes}
        _check_annotations(content['annotations'], images, categories, used, findings)
        if self.masks:
            kept = [e for e in content['annotations'] if 'segm' in self.metrics or not _is_skipped(e)]
            check_masks(kept, images, used, findings)
        if self.eval_file is not None and content['annotations']:
            self._check_evaluated(content, images, used, findings)
        return images

    def _check_evaluated(self, content: dict, images: dict[Any, dict], used: set, findings: Findings) -> None:
        """What pycocotools needs of the file that the evaluator reads, which need not be the loader's."""
        if os.path.realpath(self.eval_file) != os.path.realpath(self.ann_file):
            content = load_coco(self.eval_file, findings)
            if content is None:
                return
            known = {str(entry.get('id')) for entry in content['images']}
            for i, image in images.items():
                if str(i) not in known:
                    findings.add(f'{{n}} images are unknown to {self.eval_file}, which evaluates', image['file_name'])
        for part in ('images', 'categories'):
            if len({isinstance(entry.get('id'), str) for entry in content[part]}) > 1:
                findings.add(f'some ids of {part} are numbers and some texts, which the evaluation cannot sort')
        for entry in content['annotations']:
            where, i = f'annotation {entry.get("id")}', entry.get('id')
            if 'iscrowd' not in entry:
                findings.add('{n} annotations have no iscrowd, without which the evaluation fails', where)
            if isinstance(i, str) and not i.isdigit():
                findings.add('{n} annotation ids are no numbers, without which the evaluation fails', where)
            if i == 0:
                findings.add('{n} annotations have the id 0, which pycocotools counts as not found', where, note=True)
        if 'segm' in self.metrics and not self.masks:
            check_masks(content['annotations'], images, used, findings)

    def _check_entries(self, entries: list[dict], classes: tuple[str, ...], findings: Findings) -> None:
        """How much of the annotations arrives in the model."""
        if not entries:
            findings.add('the loader yields no image')
            return
        if not self.labelled and not any(entry.get('instances') for entry in entries):
            return
        objects: Counter = Counter()
        for entry in entries:
            for instance in entry.get('instances') or ():
                mask = instance.get('mask')
                usable = not self.masks or (isinstance(mask, dict) and self.masks != 'polygons')
                if not instance.get('ignore_flag') and (usable or (isinstance(mask, list) and good_polygons(mask))):
                    objects[instance.get('bbox_label')] += 1
        if not objects:
            findings.add(
                f'the loader yields {len(entries)} images and not one usable object: all are missing, crowds, of no '
                'area or without a mask'
            )
        if max(objects, default=-1) >= len(classes) > 0:
            findings.add(f'objects are numbered up to {max(objects)}, and there are {len(classes)} classes')
        if objects and self.published is None:
            for i, name in enumerate(classes):
                if not objects[i]:
                    findings.add('{n} classes never occur', name, note=True)

    def _check_files(self, images: dict, entries: list[dict] | None, how: How, findings: Findings) -> None:
        named = {os.path.join(self.image_dir, image['file_name']): image for image in images.values()}
        if entries is not None:
            paths = {str(e['img_path']): named.get(e['img_path']) or _stated(e) for e in entries if 'img_path' in e}
            for image in (image for path, image in named.items() if path not in paths):
                findings.add('{n} images are left out by the filter of the loader', image['file_name'], note=True)
        else:
            paths = named
        if any('://' in path for path in paths):
            findings.add('images in remote storage are not looked at', note=True)
            return
        present = {path: image['file_name'] for path, image in paths.items() if os.path.isfile(path)}
        if not present:  # say so if it is the whole folder
            files_in(self.image_dir, SUFFIXES, findings)
        for path, image in paths.items():
            if path not in present:
                findings.add('{n} images that the annotations name are missing', image['file_name'])
        known = {os.path.normpath(path) for path in (*paths, *named)}
        for folder in sorted({os.path.dirname(path) for path in known if os.path.isfile(path)}):
            for name in sorted(os.listdir(folder)):
                if name.lower().endswith(IMAGE_SUFFIXES) and os.path.join(folder, name) not in known:
                    findings.add('{n} images are not named by the annotations and stay unused', name, note=True)
        for path, size in check_sizes(present, how, self.decoder, findings).items():
            width, height = paths[path]['width'], paths[path]['height']
            if (width, height) != (size.width, size.height) and width is not None:
                turned = ', once it is turned by its orientation tag' if size.turned else ''
                example = f'{present[path]} is {size.width}x{size.height}{turned}, not {width:g}x{height:g}'
                findings.add('{n} images are of another size than the annotations say', example)


def _stated(entry: dict) -> dict:
    """A loader's entry in the form of an image of COCO's file; sizes that are no numbers are left out."""
    sides = {side: entry.get(side) if is_number(entry.get(side)) else None for side in ('width', 'height')}
    if None in sides.values():
        sides = dict(width=None, height=None)
    return dict(file_name=os.path.basename(entry['img_path']), **sides)


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


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or is_number(value)


def _shown(entry: dict) -> str:
    return ascii(entry)[:80] if len(entry) < 20 else '{...}'


def _images(entries: list[dict], findings: Findings) -> dict[Any, dict]:
    """The usable image entries by their id."""
    images: dict[Any, dict] = {}
    for entry in entries:
        sides = (entry.get('width'), entry.get('height'))
        named = isinstance(entry.get('file_name'), str) and entry['file_name']
        if not _is_id(entry.get('id')) or not named or not all(is_number(side) and side > 0 for side in sides):
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


def _categories(entries: list[dict], classes: tuple[str, ...] | None, findings: Findings) -> dict[Any, Any]:
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
        if not _is_id(entry.get('id')):
            findings.add('{n} categories have no id that is a number or a text', _shown(entry))
        elif entry['id'] in categories:
            findings.add('{n} category ids are used twice', f'id {entry["id"]}')
        else:
            categories[entry['id']] = entry.get('name')
    return categories


def _check_annotations(
    entries: list[dict], images: dict[Any, dict], categories: dict, used: set, findings: Findings
) -> None:
    ids: set = set()
    annotated: set = set()
    corners: list[str] = []
    for entry in entries:
        i, where = entry.get('id'), f'annotation {ascii(entry.get("id"))[:40]}'
        if not _is_id(i):
            findings.add('{n} annotations have no id that is a number or a text', _shown(entry))
        elif i in ids:
            findings.add('{n} annotations have the id of another annotation', where)
        else:
            ids.add(i)
        category, image_id = entry.get('category_id'), entry.get('image_id')
        if not _is_id(category) or category not in categories:
            findings.add('{n} annotations are of an unknown category', f'{where} (category {ascii(category)[:40]})')
        elif category not in used:
            findings.add('{n} annotations are of classes that the config leaves out', where, note=True)
        if not _is_id(image_id) or image_id not in images:
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


def _is_skipped(entry: dict) -> bool:
    """Whether mmdet leaves an annotation out, so that its mask does not matter."""
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
        if not all(map(_is_id, ids)) or ids[0] not in images or ids[1] not in used:
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
