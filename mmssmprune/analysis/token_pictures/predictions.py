"""Predictions over the image, drawn by the visualizers of mmdet and mmseg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mmcv
import numpy as np
from mmengine.structures import PixelData

# mmdet writes labels in a size made for photographs: smaller images are enlarged until they are as large.
READABLE_SIDE = 384


def draw_prediction(image: np.ndarray, sample: Any, dataset_meta: dict[str, Any], score_thr: float = 0.3) -> np.ndarray:
    """The image (H, W, 3), uint8 and RGB, with the prediction of a data sample; small ones come back enlarged.

    Args:
        image: what was predicted on, at its original size.
        sample: with ``pred_sem_seg`` (mmseg) or ``pred_instances`` (mmdet), on the CPU.
        dataset_meta: ``classes`` and ``palette``.
        score_thr: instances of lower scores are left out.

    Raises:
        ValueError: the prediction is of another kind.
    """
    if 'pred_sem_seg' not in sample and 'pred_instances' not in sample:
        raise ValueError('pictures of tokens are made for detectors of mmdet and segmentors of mmseg only')
    factor = -(-READABLE_SIDE // min(image.shape[:2]))
    image = mmcv.imresize(image, (image.shape[1] * factor, image.shape[0] * factor), interpolation='nearest')
    with _seeded_numpy():
        if 'pred_sem_seg' in sample:
            return _draw_segmentation(image, sample, dataset_meta, factor)
        return _draw_instances(image, sample, dataset_meta, factor, score_thr)


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
    shown = sorted({i for s in samples if 'pred_sem_seg' in s for i in s.pred_sem_seg.data.unique().tolist()})
    classes, palette = dataset_meta.get('classes'), dataset_meta.get('palette')
    return [(classes[i], tuple(part / 255 for part in palette[i])) for i in shown if i < len(classes)]


def _draw_segmentation(image: np.ndarray, sample: Any, dataset_meta: dict[str, Any], factor: int) -> np.ndarray:
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    labels = sample.pred_sem_seg.data.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    visualizer = SegLocalVisualizer('token_pictures')
    # Not by the constructor, which takes classes and palette for each other in some releases.
    visualizer.dataset_meta = dataset_meta
    shown = SegDataSample(pred_sem_seg=PixelData(data=labels))
    # Its labels lie over each other where regions are small; see `legend_of`.
    visualizer.add_datasample('prediction', image, shown, draw_gt=False, with_labels=False)
    return visualizer.get_image()


def _draw_instances(
    image: np.ndarray, sample: Any, dataset_meta: dict[str, Any], factor: int, score_thr: float
) -> np.ndarray:
    from mmdet.structures import DetDataSample

    instances = sample.pred_instances[sample.pred_instances.scores > score_thr]
    instances.bboxes = instances.bboxes * factor
    if 'masks' in instances:
        instances.masks = instances.masks.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    visualizer = _instance_visualizer()
    palette = dataset_meta.get('palette')  # lists of numbers, as JSON gives them, are not colours to mmdet
    as_tuples = [tuple(colour) for colour in palette] if isinstance(palette, (list, tuple)) else palette
    visualizer.dataset_meta = {**dataset_meta, 'palette': as_tuples}
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
                if text.get_ha() == 'left':  # else it is in the middle of a mask
                    (x, y), box = text.get_position(), text.get_window_extent(self.fig_save_canvas.get_renderer())
                    text.set_position((min(x, self.width - box.width - 3), min(y, self.height - box.height - 3)))
            return self

    return LabelsInside('token_pictures')
