"""Layer-wise learning-rate decay that knows the depth of our backbones."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmssmprune._values import is_number


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, with learning rates that shrink towards the input of the backbone.

    A parameter of depth d (see `PrunableBackbone.get_layer_depth`) learns at ``lr * rate ** (num_layers + 1 - d)``:
    patch, position, class and mask tokens have depth 0, ``layers[i]`` has i + 1, and what comes after or beside the
    layers (norms, adapters, neck, heads) has num_layers + 1 and so the full ``lr``. BEiT (arXiv 2106.08254) is
    fine-tuned in this way.

    Args:
        optim_wrapper_cfg: as in mmengine; ``optimizer.lr`` has to be given.
        paramwise_cfg: ``layer_decay_rate`` in (0, 1], and what mmengine's constructor takes (``custom_keys``,
            ``norm_decay_mult``, ...); an ``lr_mult`` there multiplies with the decay.

    Raises:
        ValueError: the rate or ``lr`` is missing or the rate is outside (0, 1]; when called, a model without a
            `PrunableBackbone`.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not is_number(rate) or not 0 < rate <= 1:
            raise ValueError(f'paramwise_cfg.layer_decay_rate must be a number above 0 and at most 1, got {rate!r}')
        if self.base_lr is None:
            raise ValueError('layer-wise learning-rate decay needs a learning rate to scale: give optimizer.lr')
        self.rate = float(rate)

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """As mmengine's, which calls this for every submodule; the root's call scales the rates of all groups."""
        super().add_params(params, module, prefix, **kwargs)
        if prefix:
            return
        scales = layer_decay_scales(module, self.rate)
        for group in params:
            (parameter,) = group['params']
            group['lr'] = group.get('lr', self.base_lr) * scales[parameter]


def layer_decay_scales(model: nn.Module, rate: float) -> dict[nn.Parameter, float]:
    """The factor ``rate ** (num_layers + 1 - depth)`` of every parameter of a model; 1 outside its backbones.

    Raises:
        ValueError: there is no `PrunableBackbone` in the model.
    """
    from mmssmprune.models.backbones import PrunableBackbone

    backbones = [m for m in model.modules() if isinstance(m, PrunableBackbone)]
    if not backbones:
        raise ValueError('layer-wise learning-rate decay needs a PlainMamba, PlainMambaAdapter or Vim in the model')
    scales = dict.fromkeys(model.parameters(), 1.0)
    for backbone in backbones:
        for name, parameter in backbone.named_parameters():
            depth, depths = backbone.get_layer_depth(name)
            scales[parameter] = rate ** (depths - 1 - depth)
    return scales
