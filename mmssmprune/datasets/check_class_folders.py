"""Check one split of a classification data set: a folder per class, as in ImageNet-1k, or a list of images."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .check_files import Decoder, How, check_sizes, files_in, loaded_entries
from .check_findings import Findings
from .check_heads import check_heads

SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')  # those that mmpretrain reads


@dataclass(frozen=True)
class ClassFolderPart:
    """One folder of images.

    Attributes:
        name: for sentences.
        root: the folder, with a folder per class.
        num_classes: how many there have to be.
        published: number of images in the published set, or None.
        ann_file: where this file exists, it holds a line "<image> <number of the class>" per image, and there need
            be no folders per class. mmpretrain looks for it in meta/.
        decoder: how the pipeline decodes images.
        heads: number of classes by the path of each head in the config.
    """

    name: str
    root: Path
    num_classes: int
    published: int | None = None
    ann_file: Path | None = None
    decoder: Decoder = field(default=Decoder(), compare=False)
    heads: dict[str, Any] = field(default_factory=dict, compare=False)

    def check(self, how: How) -> Findings:
        """Look at the folders or the list, then at the images."""
        findings = Findings(self.name)
        check_heads(self.heads, self.num_classes, findings)
        images = files_in(self.root, SUFFIXES, findings)
        if images is None:
            return findings
        findings.compare('images', len(images), self.published)
        if self.ann_file is not None and self.ann_file.is_file():
            self._check_list(self.ann_file, images, findings)
        else:
            self._check_folders(images, findings)
        check_sizes({str(path): name for name, path in images.items()}, how, self.decoder, findings)
        return findings

    def _check_folders(self, images: dict[str, Path], findings: Findings) -> None:
        folders = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        findings.compare('class folders', len(folders), self.num_classes)
        per_class = Counter(name.split('/')[0] for name in images if '/' in name)
        for folder in folders:
            if not per_class[folder]:
                findings.add('{n} class folders are empty', folder)
        for name in images:
            if '/' not in name:
                findings.add('{n} images are in no class folder', name)

    def _check_list(self, ann_file: Path, images: dict[str, Path], findings: Findings) -> None:
        try:
            lines = ann_file.read_text(encoding='utf-8').splitlines()
        except (UnicodeDecodeError, OSError) as error:
            findings.add(f'the list {ann_file} cannot be read: {error}')
            return
        findings.compare(f'lines in {ann_file.name}', len(lines), self.published)
        for line in lines:
            name, _, label = line.rpartition(' ')
            if not (label.isascii() and label.isdigit()) or int(label[:9]) >= self.num_classes:
                findings.add(f'{{n}} lines of {ann_file} do not end in a class from 0 to {self.num_classes - 1}', line)
            elif os.path.normpath(name) not in images and not (self.root / name).is_file():
                findings.add(f'{{n}} images that {ann_file} names are missing', name)


@dataclass(frozen=True)
class LoadedPart:
    """A data set of any other class: only what it yields can be judged.

    Attributes:
        name: for sentences.
        dataset: what the config builds, not yet loaded.
        decoder: how the pipeline decodes images.
        heads: number of classes by the path of each head in the config.
    """

    name: str
    dataset: Any
    decoder: Decoder = field(default=Decoder())
    heads: dict[str, Any] = field(default_factory=dict, compare=False)

    def check(self, how: How) -> Findings:
        """Look at the entries, at their ``gt_label`` if they have one, and at the images."""
        findings = Findings(self.name)
        entries = loaded_entries(self.dataset, findings)
        if entries is None:
            return findings
        findings.compare('images', len(entries), None)
        if not entries:
            findings.add('the loader yields no image')
        classes = self.dataset.metainfo.get('classes')
        check_heads(self.heads, len(classes) if classes else None, findings)
        for entry in entries:
            label = entry.get('gt_label')
            if classes and isinstance(label, int) and not 0 <= label < len(classes):
                example = f'{entry.get("img_path")} ({label})'
                findings.add(f'{{n}} images are of a class outside 0 to {len(classes) - 1}', example)
        labels = {entry.get('gt_label') for entry in entries if isinstance(entry.get('gt_label'), int)}
        for i in range(len(classes or ()) if labels else 0):
            if i not in labels:
                findings.add('{n} classes never occur', classes[i], note=True)
        paths = {str(entry['img_path']): str(entry['img_path']) for entry in entries if 'img_path' in entry}
        for path in paths:
            if '://' not in path and not os.path.isfile(path):
                findings.add('{n} images are missing', path)
        check_sizes({path: path for path in paths if os.path.isfile(path)}, how, self.decoder, findings)
        return findings
