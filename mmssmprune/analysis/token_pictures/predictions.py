"""Predictions over the image, drawn by the visualizers of mmdet and mmseg."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from mmssmprune.analysis.escape import one_line

# mmdet writes labels in a size made for photographs: smaller images are enlarged until they are as large.
READABLE_SIDE = 384
# Pixels; larger pictures than matplotlib draws, and more than a page shows.
LONGEST_SIDE = 8192
# As mmdet.evaluation.functional has it: a panoptic label is the class plus this times the instance.
INSTANCE_OFFSET = 1000


def draw_prediction(image: np.ndarray, sample: Any, dataset_meta: dict[str, Any], score_thr: float = 0.3) -> np.ndarray:
    """The image (H, W, 3), uint8 and RGB, with the prediction of a data sample; small ones come back enlarged.

    Args:
        image: what was predicted on, at its original size.
        sample: with ``pred_sem_seg`` (mmseg), ``pred_instances`` or ``pred_panoptic_seg`` (mmdet), on the CPU.
        dataset_meta: ``classes`` and ``palette``.
        score_thr: instances of lower scores are left out.

    Raises:
        ValueError: the prediction is of another kind.
    """
    labels = _label_map(sample)
    if labels is None and 'pred_instances' not in sample:
        raise ValueError('pictures of tokens are made for detectors of mmdet and segmentors of mmseg only')
    step = -(-max(image.shape[:2]) // LONGEST_SIDE)  # of larger images every second pixel, or third ...
    image = np.ascontiguousarray(image[::step, ::step])
    factor = max(min(-(-READABLE_SIDE // min(image.shape[:2])), LONGEST_SIDE // max(image.shape[:2])), 1)
    image = image.repeat(factor, 0).repeat(factor, 1)

    def resized(maps: Tensor) -> Tensor:
        return maps[..., ::step, ::step].repeat_interleave(factor, -2).repeat_interleave(factor, -1)

    with _seeded_numpy():
        if labels is not None:
            return _draw_segmentation(image, resized(labels), dataset_meta)
        instances = sample.pred_instances[sample.pred_instances.scores > score_thr]
        instances.bboxes = instances.bboxes * (factor / step)
        if 'masks' in instances:
            instances.masks = resized(torch.as_tensor(instances.masks))
        return _draw_instances(image, instances, dataset_meta, score_thr)


def _label_map(sample: Any) -> Tensor | None:
    """Class of each pixel (1, H, W), int64, of a segmentation or panoptic segmentation; None where there is neither."""
    if 'pred_sem_seg' in sample:
        # One channel and a threshold (mmseg's out_channels=1) give floats.
        return sample.pred_sem_seg.data.long()
    if 'pred_panoptic_seg' in sample:
        return sample.pred_panoptic_seg.sem_seg.long() % INSTANCE_OFFSET
    return None


@contextmanager
def _seeded_numpy() -> Iterator[None]:
    """Mmdet draws the shades of masks from NumPy's global generator, which training needs as it was."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def legend_of(samples: Sequence[Any], dataset_meta: dict[str, Any]) -> list[tuple[str, tuple[float, ...]]]:
    """Name and colour (RGB, 0 to 1) of each class that segmentations show; empty for detections, which bear labels."""
    maps = [labels for labels in map(_label_map, samples) if labels is not None]
    shown = sorted({i for labels in maps for i in labels.unique().tolist()})
    if not shown:
        return []
    meta = named_and_coloured(dataset_meta)
    classes, palette = meta['classes'], meta['palette']
    return [(classes[i], tuple(part / 255 for part in palette[i])) for i in shown if i < len(classes)]


def named_and_coloured(dataset_meta: dict[str, Any], count: int = 0) -> dict[str, Any]:
    """``classes`` and ``palette`` of a data set, or a checkpoint, made up where they are missing or damaged.

    Args:
        dataset_meta: with or without both.
        count: how many classes there are at least.
    """
    given, colours = dataset_meta.get('classes') or (), dataset_meta.get('palette')
    given = [given] if isinstance(given, str) else list(given)
    classes = [one_line(name) for name in given] + [f'class {i}' for i in range(len(given), count)]
    colours = list(colours) if isinstance(colours, (list, tuple)) else []
    hues = [colorsys.hsv_to_rgb(i / len(classes), 0.75, 0.9) for i in range(len(classes))]
    palette = [tuple(round(255 * part) for part in hue) for hue in hues]
    for i, colour in enumerate(colours[: len(palette)]):
        palette[i] = tuple(colour) if _is_colour(colour) else palette[i]
    return {'classes': classes, 'palette': palette}


def _is_colour(colour: Any) -> bool:
    if not isinstance(colour, (list, tuple)) or len(colour) != 3:
        return False
    return all(isinstance(part, Integral) and 0 <= part <= 255 for part in colour)


def _draw_segmentation(image: np.ndarray, labels: Tensor, dataset_meta: dict[str, Any]) -> np.ndarray:
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    visualizer = SegLocalVisualizer('token_pictures')
    # Not by the constructor, which takes classes and palette for each other in some releases.
    visualizer.dataset_meta = named_and_coloured(dataset_meta)
    shown = SegDataSample(pred_sem_seg=PixelData(data=labels))
    # Its labels lie over each other where regions are small; see `legend_of`.
    visualizer.add_datasample('prediction', image, shown, draw_gt=False, with_labels=False)
    return visualizer.get_image()


def _draw_instances(
    image: np.ndarray, instances: InstanceData, dataset_meta: dict[str, Any], score_thr: float
) -> np.ndarray:
    from mmdet.structures import DetDataSample

    if 'masks' in instances:  # one without a pixel has no place for its label
        instances = instances[instances.masks.flatten(1).any(1)]
    visualizer = _instance_visualizer()
    count = int(instances.labels.max()) + 1 if len(instances) else 0
    visualizer.dataset_meta = named_and_coloured(dataset_meta, count)
    shown = DetDataSample(pred_instances=instances)
    visualizer.add_datasample('prediction', image, shown, draw_gt=False, pred_score_thr=score_thr)
    return visualizer.get_image()


def _instance_visualizer() -> Any:
    """mmdet's, but for labels that would be cut off at an edge: these move inside."""
    from mmdet.visualization import DetLocalVisualizer

    class LabelsInside(DetLocalVisualizer):
        def draw_texts(self, *args: Any, **kwargs: Any) -> Any:
            drawn_before = len(self.ax_save.texts)
            super().draw_texts(*args, **kwargs)
            for text in self.ax_save.texts[drawn_before:]:
                text.set_parse_math(False)  # a class may have a $ in its name
                if text.get_ha() == 'left':  # else it is in the middle of a mask
                    (x, y), box = text.get_position(), text.get_window_extent(self.fig_save_canvas.get_renderer())
                    text.set_position((min(x, self.width - box.width - 3), min(y, self.height - box.height - 3)))
            return self

    return LabelsInside('token_pictures')
