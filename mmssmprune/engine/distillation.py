"""Feature distillation: the pruned backbone learns to show the maps of its dense self."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import wraps
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmssmprune._values import flag, positive
from mmssmprune.checkpoints.keys import extract_state_dict, fit, is_of_pruning, part_of, unwrap
from mmssmprune.checkpoints.reading import read_checkpoint


@HOOKS.register_module()
class DistillationHook(Hook):
    """Add the distance between the maps of the pruned backbone and those of its dense copy as ``loss_distill``.

    The teacher is a frozen copy of the backbone at keep ratio 1, in evaluation mode, so its BatchNorm and stochastic
    depth stand still. It sees the very images that the student's backbone sees. It belongs to the hook: neither the
    model's state dict nor the optimizer knows it. All maps that the backbone returns are compared, as in FitNets
    (arXiv 1412.6550) but without a regressor, because both have one width; see `feature_distance`.

    Gradient checkpointing, mixed precision and DistributedDataParallel work as without it. An iteration costs one more
    dense forward pass of the backbone.

    Args:
        teacher: checkpoint of a dense (or pruned) model with this backbone, e.g. the ``iter_*.pth`` of its training.
            None takes the student's own weights at the start of training: those of ``load_from``, say.
        loss_weight: factor of the loss, above 0.
        normalize: relative to the teacher's maps (see `feature_distance`); otherwise the plain mean squared error.

    Raises:
        ValueError: a wrong argument. At the start of training: the model's backbone is not pruned; the teacher's
            checkpoint is damaged or of another architecture; or a training is resumed without ``teacher``, whose
            student is no longer the one that the teacher was copied from.
        FileNotFoundError: at the start of training, the teacher's checkpoint does not exist.
    """

    def __init__(self, teacher: str | None = None, loss_weight: float = 1.0, normalize: bool = True):
        if teacher is not None and not isinstance(teacher, str):
            raise ValueError(f'DistillationHook.teacher must be the path of a checkpoint or None, got {teacher!r}')
        self.teacher_path, self.loss_weight = teacher, positive('DistillationHook.loss_weight', loss_weight)
        self.normalize = flag('DistillationHook.normalize', normalize)
        self.teacher: nn.Module | None = None

    def before_train(self, runner: Runner) -> None:
        """Make the teacher and put the loss into the model."""
        model = unwrap(runner.model)
        if 'loss' in vars(model):
            raise ValueError("the model's loss is wrapped already; leave one DistillationHook in custom_hooks")
        if self.teacher_path is None and runner.iter > 0:
            raise ValueError(
                "DistillationHook has no teacher checkpoint, and after resuming the student's weights are no longer "
                'those it started from; give teacher=PATH, e.g. the checkpoint that load_from named'
            )
        self.teacher = make_teacher(model, self.teacher_path)
        self._log_teacher(runner)
        model.loss = self._with_distillation(model)

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was."""
        vars(unwrap(runner.model)).pop('loss', None)
        self.teacher = None

    def _log_teacher(self, runner: Runner) -> None:
        if self.teacher_path is not None:
            print_log(f'distillation: the teacher is {self.teacher_path}, dense', 'current')
        elif runner._load_from or self.teacher.init_cfg:
            print_log('distillation: the teacher is the student at its start, dense', 'current')
        else:
            runner.logger.warning(
                'distillation: the teacher is the student at its random start, which knows nothing; '
                'start from weights with load_from, or give DistillationHook a teacher'
            )

    def _with_distillation(self, model: nn.Module) -> Any:
        """``model.loss`` with ``loss_distill`` in its result."""
        loss = model.loss

        @wraps(loss)
        def loss_with_distillation(*args: Any, **kwargs: Any) -> dict[str, Any]:
            if not model.backbone.training:
                return loss(*args, **kwargs)
            passes: list[tuple[tuple, Sequence[Tensor]]] = []

            def record(backbone: nn.Module, images: tuple, maps: Sequence[Tensor]) -> None:
                passes.append((images, maps))

            handle = model.backbone.register_forward_hook(record)
            try:
                losses = loss(*args, **kwargs)
            finally:
                handle.remove()
            return dict(losses, loss_distill=self.loss_weight * self._distance(passes))

        return loss_with_distillation

    def _distance(self, passes: list[tuple[tuple, Sequence[Tensor]]]) -> Tensor:
        """Mean over the forward passes of the backbone, of which detectors and segmentors make one per loss."""
        if not passes:
            raise ValueError('DistillationHook found that the loss of this model does not run model.backbone')
        distances = []
        for images, maps in passes:
            with torch.no_grad():
                targets = self.teacher(*images)
            distances.append(feature_distance(maps, targets, self.normalize))
        return torch.stack(distances).mean()


def feature_distance(maps: Sequence[Tensor], targets: Sequence[Tensor], normalize: bool = True) -> Tensor:
    """How far maps are from their targets, in float32: a scalar, 0 where they agree.

    Args:
        maps: the student's, (B, C, h, w) each.
        targets: the teacher's, of the same shapes.
        normalize: per image and map ``sum((map - target)^2) / sum(target^2)``, then the mean over both. The maps of a
            backbone differ in scale by orders of magnitude where no norm follows them; so each counts alike, and an
            image counts the same in any batch. Otherwise the mean squared error, as in FitNets, averaged over maps.
    """
    distances = []
    for x, target in zip(maps, targets, strict=True):
        x, target = x.float().flatten(1), target.float().flatten(1)
        distance = (x - target).square().mean(dim=1)
        if normalize:
            distance = distance / target.square().mean(dim=1).clamp(min=1e-12)
        distances.append(distance.mean())
    return torch.stack(distances).mean()


def make_teacher(model: nn.Module, checkpoint: str | None) -> nn.Module:
    """A frozen dense copy of ``model.backbone`` in evaluation mode, with the weights of a checkpoint if one is given.

    Raises:
        ValueError, FileNotFoundError: as said in `DistillationHook`.
    """
    from mmssmprune.models.backbones import PrunableBackbone

    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, PrunableBackbone) or backbone.pruning is None:
        raise ValueError(
            'DistillationHook needs a model whose backbone is pruned; add pruning=dict(...) to the backbone in its '
            'config, or leave the hook out'
        )
    teacher = deepcopy(backbone)
    teacher.set_keep_ratio(1.0)
    if checkpoint is not None:
        _load_backbone(teacher, checkpoint)
    return teacher.eval().requires_grad_(False)


def _load_backbone(teacher: nn.Module, path: str) -> None:
    """Load all weights of ``backbone.*`` in a checkpoint of a whole model but those of its pruning."""
    state = part_of(extract_state_dict(read_checkpoint(path), path), 'backbone')
    for name in filter(is_of_pruning, list(state)):
        del state[name]
    difference = fit(teacher, state)
    if difference:
        raise ValueError(f"teacher {path} is of another architecture than the student's backbone: {difference}")
    teacher.load_state_dict(state, strict=False)
