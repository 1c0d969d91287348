"""Check one split of a segmentation data set: the pairs of image and label map that its loader yields."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .check_files import IMAGE_SUFFIXES, Decoder, How, check_sizes, decode, files_in, loaded_entries
from .check_findings import Findings
from .check_heads import check_heads

IGNORED = 255
COLOURS = {2: 'LA', 3: 'RGB', 4: 'RGBA'}


@dataclass(frozen=True)
class LabelMapPart:
    """One folder of images with its folder of label maps.

    Attributes:
        name: for sentences.
        image_dir, label_dir: where they are; no ``label_dir`` for test images without labels.
        img_suffix, seg_map_suffix: what follows the common name.
        num_classes: of the data set; None if it does not say.
        reduce_zero_label: label 0 is "other" and classes count from 1, as in ADE20K; otherwise they count from 0.
        published: number of images in the published set, or None.
        dataset: what the config builds, not yet loaded; by default a BaseSegDataset of the folders.
        label_map: new label by old one, where the config takes some of the classes only.
        ignored: the label that does not count.
        decoder, label_decoder: how the pipeline decodes images and label maps.
        heads: number of classes by the path of each head in the config.
    """

    name: str
    image_dir: Path
    label_dir: Path | None
    img_suffix: str
    seg_map_suffix: str
    num_classes: int | None
    reduce_zero_label: bool
    published: int | None = None
    dataset: Any = field(default=None, compare=False, repr=False)
    label_map: dict[int, int] | None = field(default=None, compare=False)
    ignored: int = field(default=IGNORED, compare=False)
    decoder: Decoder = field(default=Decoder(), compare=False)
    label_decoder: Decoder = field(default=Decoder('pillow', 'unchanged'), compare=False)
    heads: dict[str, Any] = field(default_factory=dict, compare=False)

    def check(self, how: How) -> Findings:
        """Look at the pairs of files."""
        findings = Findings(self.name)
        check_heads(self.heads, self.num_classes, findings)
        for folder in filter(None, (self.image_dir, self.label_dir)):
            if not folder.is_dir() and '://' not in str(folder):
                findings.add(f'the folder {folder} does not exist')
        entries = None if findings.wrong and not self.image_dir.is_dir() else self._entries(findings)
        if entries is None:
            return findings
        pairs = {str(entry.get('img_path')): entry.get('seg_map_path') for entry in entries}
        if any('://' in path for path in pairs):
            findings.add('images in remote storage are not looked at', note=True)
            return findings
        if not pairs:
            findings.add(f'the loader yields no image: {self.image_dir} holds no *{self.img_suffix}')
        self._check_names(pairs, findings)
        present = {path: self._short(path, self.image_dir) for path in pairs if os.path.isfile(path)}
        sizes = check_sizes(present, how, self.decoder, findings)
        if how.depth != 'names' and self.label_dir is not None:
            self._check_labels({path: pairs[path] for path in present if _is_file(pairs[path])}, sizes, how, findings)
        return findings

    def _entries(self, findings: Findings) -> list[dict] | None:
        from mmseg.datasets import BaseSegDataset

        if self.dataset is not None:
            return loaded_entries(self.dataset, findings)
        folders = dict(img_path=str(self.image_dir), seg_map_path=self.label_dir and str(self.label_dir))
        suffixes = dict(img_suffix=self.img_suffix, seg_map_suffix=self.seg_map_suffix)
        return loaded_entries(BaseSegDataset(data_prefix=folders, **suffixes, lazy_init=True), findings)

    def _short(self, path: str, folder: Path | None) -> str:
        return os.path.relpath(path, folder).replace(os.sep, '/') if folder else path

    def _check_names(self, pairs: dict[str, str | None], findings: Findings) -> None:
        """Count files, and look for those that are missing or left over."""
        findings.compare('images', len(pairs), self.published)
        for path in pairs:
            if not os.path.isfile(path):
                findings.add('{n} images that the list names are missing', self._short(path, self.image_dir))
        over = set(files_in(self.image_dir, IMAGE_SUFFIXES, Findings('')) or ()) if self.image_dir.is_dir() else set()
        over -= {self._short(path, self.image_dir) for path in pairs}
        for name in sorted(over):
            findings.add('{n} images are not read by the loader', name, note=True)
        if self.label_dir is None:
            findings.add('there are no label maps, so that predictions can be written but not judged', note=True)
            return
        found = files_in(self.label_dir, (self.seg_map_suffix.lower(),), Findings('')) or {}
        findings.compare('label maps', len(found), self.published)
        for path, label in pairs.items():
            if not _is_file(label):
                findings.add('{n} images have no label map', self._short(path, self.image_dir))
        spare = set(found) - {self._short(label, self.label_dir) for label in pairs.values() if label}
        for name in sorted(spare):  # harmless, except that a published set has none
            findings.add('{n} label maps have no image', name, note=self.published is None)

    def _check_labels(self, pairs: dict[str, str], sizes: dict, how: How, findings: Findings) -> None:
        counted = len(self.label_map) if self.label_map else self.num_classes
        last = (IGNORED if counted is None else counted) - 1 + int(self.reduce_zero_label)
        stored: set = set()
        yielded: set[int] = set()
        looks = how.map(
            lambda pair: _labels_of(pair[1], self.label_decoder), list(pairs.items()), f'{self.name} labels'
        )
        for (path, label_path), look in zip(pairs.items(), looks, strict=True):
            stem = self._short(path, self.image_dir).removesuffix(self.img_suffix)
            if isinstance(look, str):
                findings.add('{n} label maps cannot be used', f'{self._short(label_path, self.label_dir)} ({look})')
                continue
            label_size, values = look
            size = sizes.get(path)
            if size is not None and size[:2] != label_size:
                turned = ' once it is turned by its orientation tag' if size.turned else ''
                example = f'{stem}: image {size.width}x{size.height}{turned}, labels {label_size[0]}x{label_size[1]}'
                findings.add('{n} label maps are of another size than their image', example)
            labels = {value: self._yielded(value) for value in values}
            beyond = sorted(value for value, label in labels.items() if not self._is_known(label))
            if beyond:
                findings.add(f'{{n}} label maps hold labels other than 0 to {last}', f'{stem} holds {beyond[0]:g}')
            stored |= values
            yielded |= set(labels.values())
            if set(labels.values()) == {self.ignored}:
                findings.add('{n} label maps are ignored as a whole', stem, note=True)
        if stored:
            self._check_all(stored, yielded, findings)

    def _yielded(self, value: float) -> int:
        """What mmseg makes of a label, -1 if it does not survive as it is."""
        if value != int(value) or not 0 <= value <= 255:
            return -1
        value = int(value)
        if self.reduce_zero_label:
            value = 255 if value in (0, 255) else value - 1
        return (self.label_map or {}).get(value, value)

    def _is_known(self, label: int) -> bool:
        return label == self.ignored or 0 <= label < (256 if self.num_classes is None else self.num_classes)

    def _check_all(self, stored: set, yielded: set[int], findings: Findings) -> None:
        """What only all label maps together tell."""
        if yielded <= {self.ignored}:
            findings.add('every pixel of every label map is ignored')
        elif stored == {0, IGNORED} and self.ignored == IGNORED and (self.num_classes or 2) > 1:
            findings.add(
                f'label maps hold 0 and {IGNORED} only, as pictures of a mask do, and {IGNORED} is ignored; classes '
                'have to be numbered 0, 1, ...'
            )
        elif self.published is None and self.num_classes is not None:
            for i in sorted(set(range(self.num_classes)) - yielded):
                findings.add('{n} classes never occur', f'class {i}', note=True)
        if self.reduce_zero_label and IGNORED in stored and self.num_classes not in stored:
            findings.add(
                f'labels hold {IGNORED} and never {self.num_classes}, as if they counted from 0 already; here 0 has to '
                f'be "other" and classes count from 1'
            )


def _is_file(path: str | None) -> bool:
    return path is not None and os.path.isfile(path)


def _labels_of(path: str, decoder: Decoder) -> tuple[tuple[int, int], set[float]] | str:
    """Size (width, height) of a label map and the labels in it, or in words why it cannot be used."""
    array = decode(path, decoder)
    if isinstance(array, str):
        return array
    if array.ndim == 3 and array.shape[2] > 1:
        kind = COLOURS.get(array.shape[2], f'{array.shape[2]} channels')
        return f'it holds colours ({kind}), not one number per pixel'
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or not np.isfinite(array).all():
        return 'it holds something other than finite numbers'
    return (array.shape[1], array.shape[0]), set(np.unique(array).tolist())
