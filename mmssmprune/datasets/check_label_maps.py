"""Check one split of a segmentation data set in ADE20K's format: images, and label maps of the same names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .check_files import How, files_in, image_size
from .check_findings import Findings

IGNORED = 255
ONE_NUMBER_PER_PIXEL = ('L', 'P', 'I', 'I;16', '1')


@dataclass(frozen=True)
class LabelMapPart:
    """One folder of images with its folder of label maps.

    Attributes:
        name: for sentences.
        image_dir, label_dir: where they are.
        img_suffix, seg_map_suffix: what follows the common name.
        num_classes: of the data set.
        reduce_zero_label: label 0 is "other" and classes count from 1, as in ADE20K; otherwise they count from 0.
        published: number of images in the published set, or None.
    """

    name: str
    image_dir: Path
    label_dir: Path
    img_suffix: str
    seg_map_suffix: str
    num_classes: int
    reduce_zero_label: bool
    published: int | None = None

    def check(self, how: How) -> Findings:
        """Look at the pairs of files."""
        findings = Findings(self.name)
        images = self._stems(self.image_dir, self.img_suffix, findings)
        labels = self._stems(self.label_dir, self.seg_map_suffix, findings)
        if images is None or labels is None:
            return findings
        findings.compare('images', len(images), self.published)
        findings.compare('label maps', len(labels), self.published)
        for stem in images:
            if stem not in labels:
                findings.add('{n} images have no label map', f'{stem}{self.img_suffix}')
        for stem in labels:
            if stem not in images:
                findings.add('{n} label maps have no image', f'{stem}{self.seg_map_suffix}')
        if how.depth != 'names':
            pairs = [(stem, images[stem], labels[stem]) for stem in images if stem in labels]
            self._check_pairs(pairs, how, findings)
        return findings

    def _stems(self, folder: Path, suffix: str, findings: Findings) -> dict[str, Path] | None:
        files = files_in(folder, (suffix.lower(),), findings)
        return files and {name[: -len(suffix)]: path for name, path in files.items()}

    def _check_pairs(self, pairs: list[tuple[str, Path, Path]], how: How, findings: Findings) -> None:
        def look(pair: tuple[str, Path, Path]) -> tuple[tuple[int, int] | str, tuple[tuple[int, int], set[int]] | str]:
            return image_size(pair[1], how.depth), _labels_of(pair[2])

        first, last = (0, self.num_classes) if self.reduce_zero_label else (0, self.num_classes - 1)
        seen: set[int] = set()
        for (stem, _, _), (size, label) in zip(pairs, how.map(look, pairs, f'{self.name} pairs'), strict=True):
            if isinstance(size, str):
                findings.add('{n} images cannot be read', f'{stem}{self.img_suffix} ({size})')
            if isinstance(label, str):
                findings.add('{n} label maps cannot be used', f'{stem}{self.seg_map_suffix} ({label})')
                continue
            label_size, values = label
            seen |= values
            if not isinstance(size, str) and size != label_size:
                example = f'{stem}: image {size[0]}x{size[1]}, labels {label_size[0]}x{label_size[1]}'
                findings.add('{n} label maps are of another size than their image', example)
            beyond = sorted(values - {*range(first, last + 1), IGNORED})
            if beyond:
                findings.add(f'{{n}} label maps hold labels other than {first} to {last}', f'{stem} holds {beyond[0]}')
        if self.reduce_zero_label and IGNORED in seen and self.num_classes not in seen:
            findings.add(
                f'labels hold {IGNORED} and never {self.num_classes}, as if they counted from 0 already; here 0 has to '
                f'be "other" and classes count from 1'
            )


def _labels_of(path: Path) -> tuple[tuple[int, int], set[int]] | str:
    """Size (width, height) of a label map and the labels in it, or in words why it cannot be used."""
    try:
        with Image.open(path) as image:
            if image.mode not in ONE_NUMBER_PER_PIXEL:
                return f'it holds colours ({image.mode}), not one number per pixel'
            return image.size, set(np.unique(np.asarray(image)).tolist())
    except (OSError, SyntaxError, ValueError) as error:
        return ' '.join(str(error).split()).replace(f'{str(path)!r}', '').strip() or type(error).__name__
