"""From image files to what a model's own test pipeline makes of them, and the names and colours of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcv.transforms import Pad
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS
from torch import nn

from mmssmprune.checkpoints.loading import load_checkpoint_strict
from mmssmprune.checkpoints.reading import check_checkpoint_file
from mmssmprune.engine.loading import build_model
from mmssmprune.models.backbones.base import pruned_backbones, set_keep_ratio

from .observe import read_image
from .predictions import named_and_coloured

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def find_images(targets: Sequence[str]) -> list[Path]:
    """The image files that ``targets`` name: files as they are, of a folder those directly in it, sorted by name.

    Raises:
        FileNotFoundError: a target does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for target in targets:
        path = Path(target).expanduser()
        if not path.exists():
            raise FileNotFoundError(f'image {target} does not exist')
        inside = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            raise FileNotFoundError(f'folder {target} holds no image ({", ".join(IMAGE_SUFFIXES)})')
        found += inside
    return list(dict.fromkeys(found))


def load_model(
    cfg: Config, checkpoint: str, device: str | None = None, keep_ratio: float | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The config's model with its weights, in eval mode, and the checkpoint.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the backbone is not pruned, ``keep_ratio`` is wrong, or the checkpoint does not fit.
    """
    check_checkpoint_file(checkpoint)
    model = build_model(cfg, device=device)
    pruned_backbones(model)
    if keep_ratio is not None:
        set_keep_ratio(model, keep_ratio)
    return model, load_checkpoint_strict(model, checkpoint)


def test_pipeline(cfg: Config) -> Compose:
    """The config's test pipeline without what reads annotations.

    Raises:
        ValueError: the config has none.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if 'pipeline' not in dataset:
        raise ValueError('the config has no test_dataloader.dataset.pipeline, so it does not say how images are read')
    return Compose([step for step in dataset['pipeline'] if 'Annotations' not in step['type']])


def run_pipeline(pipeline: Compose, image: Path) -> dict[str, Any]:
    """What a pipeline makes of an image file.

    Raises:
        ValueError: it makes nothing of it, or fails.
    """
    height, width = read_image(str(image)).shape[:2]  # tells in a sentence what the pipeline would not
    try:
        data = pipeline(dict(img_path=str(image), img_id=0))
    except Exception as error:  # every transform has its own
        why = ' '.join(str(error).split())
        raise ValueError(f'the test pipeline of the config fails on {image}, {height}x{width} pixels: {why}') from error
    if data is None:
        raise ValueError(f'the test pipeline of the config drops {image}')
    return data


def pads(pipeline: Any) -> bool:
    """Whether a built pipeline pads the image itself (the preprocessor may pad besides)."""
    return any(isinstance(step, Pad) for step in getattr(pipeline, 'transforms', ()))


def innermost(dataset: Any) -> Any:
    """A built dataset, out of its wrappers."""
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset


def dataset_meta(cfg: Config, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Classes and palette: of the checkpoint's training, else of the config's test set."""
    saved = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
    if saved.get('classes'):
        return dict(saved)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    with DATASETS.switch_scope_and_registry(None) as registry:  # that of the config's default scope
        kind = registry.get(dataset.type)
    return {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}


def complete_meta(meta: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Give a segmentor a name and a colour for each class that ``meta`` leaves out; detections get theirs later."""
    if not hasattr(model, 'decode_head'):
        return meta
    heads = model.decode_head if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
    # One channel with a threshold tells two classes apart, whatever num_classes says.
    count = max(heads[-1].num_classes, 2 if getattr(heads[-1], 'out_channels', None) == 1 else 1)
    return named_and_coloured(meta, count)
