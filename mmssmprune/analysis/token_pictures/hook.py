"""A hook that shows, during validation and test, what pruning does to some of the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmssmprune._values import is_number, is_whole


@HOOKS.register_module()
class TokenVisualizationHook(Hook):
    """Send pictures of kept tokens, scores, restored features, dense and pruned predictions to the visualizer.

    They go through ``runner.visualizer.add_image``, so every backend of the config (LocalVisBackend,
    TensorboardVisBackend) stores them, under the step at which the validation runs. Each picture costs two forward
    passes of one image. Predictions, metrics and random numbers are as without the hook. Under a launcher the main
    process draws, from the images that it validates itself.

    Args:
        interval: how many images of a validation or test from one picture to the next; the first image has one.
        max_images: at most so many each time.
        score_thr: least score of the detections drawn.

    Models under test-time augmentation (several versions of an image at once) or sharded over processes (FSDP,
    DeepSpeed) get no pictures.

    Raises:
        ValueError: ``interval`` or ``max_images`` is no positive whole number; before the run also for a dense model.
    """

    def __init__(self, interval: int = 50, max_images: int = 8, score_thr: float = 0.3):
        for name, value in (('interval', interval), ('max_images', max_images)):
            if not is_whole(value) or value < 1:
                raise ValueError(f'TokenVisualizationHook.{name} must be a whole number above 0, got {value!r}')
        if not is_number(score_thr):
            raise ValueError(f'TokenVisualizationHook.score_thr must be a number, got {score_thr!r}')
        self.interval, self.max_images, self.score_thr = interval, max_images, score_thr
        self._seen = self._drawn = 0

    def before_run(self, runner: Runner) -> None:
        """Refuse a model without a pruned backbone; say so where nothing can be drawn."""
        from mmssmprune.models.backbones.base import pruned_backbones

        pruned_backbones(runner.model)
        if _on_its_own(runner.model) is None:
            kind = type(runner.model).__name__
            runner.logger.warning(f'TokenVisualizationHook draws nothing: one image alone cannot pass a {kind}')

    def before_val(self, runner: Runner) -> None:
        """Begin to count."""
        self._seen = self._drawn = 0

    before_test = before_val

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Draw what is due of a batch."""
        self._look(runner, data_batch, runner.val_dataloader.dataset)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Draw what is due of a batch."""
        self._look(runner, data_batch, runner.test_dataloader.dataset)

    def _look(self, runner: Runner, data_batch: Any, dataset: Any) -> None:
        model = _on_its_own(runner.model)
        if model is None or not is_main_process():
            return
        for inputs, sample in zip(data_batch['inputs'], data_batch['data_samples'], strict=True):
            if self._seen % self.interval == 0 and self._drawn < self.max_images:
                name = f'tokens_{self._seen:05d}'
                if 'img_path' in sample:
                    name += f'_{Path(sample.img_path).stem}'
                runner.visualizer.add_image(name, self._picture(model, inputs, sample, dataset, name), runner.iter)
                self._drawn += 1
            self._seen += 1

    def _picture(self, model: Any, inputs: Any, sample: Any, dataset: Any, name: str) -> Any:
        """(H, W, 3) uint8, RGB."""
        from mmssmprune.analysis.token_pictures import figure, observe, sources

        dataset = sources.innermost(dataset)
        seen = observe.observe(model, inputs, sample, sources.pads(getattr(dataset, 'pipeline', None)))
        meta = sources.complete_meta(dict(dataset.metainfo), model)
        return figure.to_array(figure.draw_observation(seen, name, meta, self.score_thr))


def _on_its_own(model: nn.Module) -> nn.Module | None:
    """The model inside a wrapper, if it can run one image without the other processes."""
    while is_model_wrapper(model):
        if not isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            return None
        model = model.module
    return None if isinstance(model, BaseTTAModel) else model
