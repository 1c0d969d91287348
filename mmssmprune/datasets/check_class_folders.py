"""Check one split of a classification data set: a folder per class, as in ImageNet-1k, or a list of images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .check_files import How, files_in, image_size
from .check_findings import Findings

SUFFIXES = ('.jpeg', '.jpg', '.png')


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
    """

    name: str
    root: Path
    num_classes: int
    published: int | None = None
    ann_file: Path | None = None

    def check(self, how: How) -> Findings:
        """Look at the folders or the list, then at the images."""
        findings = Findings(self.name)
        images = files_in(self.root, SUFFIXES, findings)
        if images is None:
            return findings
        findings.compare('images', len(images), self.published)
        if self.ann_file is not None and self.ann_file.is_file():
            self._check_list(self.ann_file, images, findings)
        else:
            self._check_folders(images, findings)
        if how.depth == 'names':
            return findings
        names = list(images)
        sizes = how.map(lambda name: image_size(images[name], how.depth), names, f'{self.name} images')
        for name, size in zip(names, sizes, strict=True):
            if isinstance(size, str):
                findings.add('{n} images cannot be read', f'{name} ({size})')
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
        lines = ann_file.read_text(encoding='utf-8').splitlines()
        findings.compare(f'lines in {ann_file.name}', len(lines), self.published)
        for line in lines:
            name, _, label = line.rpartition(' ')
            if not label.isdigit() or int(label) >= self.num_classes:
                findings.add(f'{{n}} lines of {ann_file} do not end in a class from 0 to {self.num_classes - 1}', line)
            elif name not in images:
                findings.add(f'{{n}} images that {ann_file} names are missing', name)
