"""Check one split of a detection data set: COCO's annotation file as it is, and what the loader makes of it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .check_annotations import (
    check_annotations,
    check_masks,
    is_skipped,
    load_coco,
    usable_categories,
    usable_images,
)
from .check_files import IMAGE_SUFFIXES, Decoder, How, check_sizes, files_in, loaded_entries
from .check_findings import Findings
from .check_heads import check_heads
from .check_masks import good_polygons, is_number

SUFFIXES = ('.jpg', '.jpeg', '.png')


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
        metrics, eval_file: what CocoMetric computes ('bbox', 'segm'), and from which file; None without evaluation.
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
        check_heads(self.heads, len(self.classes) if self.classes else None, findings)
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
        images = usable_images(content['images'], findings)
        images_published, annotations_published = self.published or (None, None)
        findings.compare('images', len(content['images']), images_published)
        if self.labelled or content['annotations']:
            findings.compare('annotations', len(content['annotations']), annotations_published)
        else:
            findings.add('there are no annotations, so that predictions can be written but not judged', note=True)
        categories = usable_categories(content['categories'], self.classes, findings)
        used = {i for i, name in categories.items() if not self.classes or name in self.classes}
        check_annotations(content['annotations'], images, categories, used, findings)
        if self.masks:
            kept = [e for e in content['annotations'] if 'segm' in self.metrics or not is_skipped(e)]
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
        named = {os.path.normpath(self.image_dir / image['file_name']): image for image in images.values()}
        if entries is not None:
            loaded = [entry for entry in entries if isinstance(entry.get('img_path'), str)]
            paths = {e['img_path']: named.get(os.path.normpath(e['img_path'])) or _stated(e) for e in loaded}
            yielded = {os.path.normpath(path) for path in paths}
            for image in (image for path, image in named.items() if path not in yielded):
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
            for name in sorted(os.listdir(folder or '.')):
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
