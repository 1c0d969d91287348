"""Make a whole small data set on disk, deterministic by seed, all or nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .ade_format import write_ade_split
from .coco_format import write_coco_split
from .sample_sheet import draw_ade_sheet, draw_coco_sheet
from .scenes import Scene, draw_scene
from .sources import SPLITS, load_sources

WRITERS: dict[str, Callable] = {'mini_coco': write_coco_split, 'mini_ade': write_ade_split}
SHEETS: dict[str, Callable] = {'mini_coco': draw_coco_sheet, 'mini_ade': draw_ade_sheet}
DATA_SETS = tuple(WRITERS)
# Raised whenever scenes change, so that data on disk from an older version is made anew.
VERSION = 1


@dataclass(frozen=True)
class Settings:
    """What a data set is made from: image side in pixels, images per split, and the seed."""

    size: int = 128
    train: int = 1000
    val: int = 150
    seed: int = 0
    version: int = VERSION

    def __post_init__(self):
        if self.size < 64:
            raise ValueError(f'scenes need at least 64 pixels a side, got {self.size}')
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise ValueError(f'the number of {split} images must be at least 1, got {getattr(self, split)}')
        if self.seed < 0:
            raise ValueError(f'the seed must be 0 or more, got {self.seed}')


def scenes_of(
    name: str, split: str, settings: Settings, progress: Callable[[], None] = lambda: None
) -> Iterator[Scene]:
    """Yield the scenes of one split; scene i depends on the seed, the data set, the split and i alone."""
    sources = load_sources(split)
    for i in range(getattr(settings, split)):
        entropy = (settings.seed, list(WRITERS).index(name), SPLITS.index(split), i)
        yield draw_scene(np.random.default_rng(entropy), sources, settings.size)
        progress()


def is_made(root: Path, settings: Settings) -> bool:
    """Whether ``root`` holds a complete data set with these settings."""
    try:
        return json.loads((root / 'settings.json').read_text()) == asdict(settings)
    except (OSError, ValueError):  # absent, or damaged and therefore to be made anew
        return False


def make_data_set(name: str, root: Path, settings: Settings, progress: Callable[[], None] = lambda: None) -> None:
    """Make 'mini_coco' or 'mini_ade' and its sample sheet at ``root``.

    An older data set is replaced only once the new one is complete.

    Raises:
        FileExistsError: ``root`` exists and was not made by this function.
    """
    if root.exists() and not (root / 'settings.json').exists():
        raise FileExistsError(f'{root} exists and is not a data set made by this tool; move it away or choose another')
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'{root.name}.partial-', dir=root.parent) as tmp:
        partial = Path(tmp) / root.name
        partial.mkdir()
        for split in SPLITS:
            WRITERS[name](partial, split, scenes_of(name, split, settings, progress))
        SHEETS[name](partial, partial / 'samples.png')
        (partial / 'settings.json').write_text(json.dumps(asdict(settings)))
        if root.exists():
            shutil.rmtree(root)
        partial.rename(root)
