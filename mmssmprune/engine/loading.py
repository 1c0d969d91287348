"""From a config and a checkpoint to a model that is ready for inference."""

from __future__ import annotations

import yaml
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import set_random_seed
from torch import nn

from mmssmprune.checkpoints.loading import load_checkpoint_strict


def read_config(path: str) -> Config:
    """``Config.fromfile``; a YAML file may hold plain data only, for its tags could name any function to call.

    Raises:
        ValueError: it is no YAML, or asks for more than plain data.
    """
    try:
        return Config.fromfile(path)
    except yaml.YAMLError as error:
        sentence = f'config {path} is no YAML of plain data ({" ".join(str(error).split())}); write it as a .py file'
    raise ValueError(sentence)


def build_model(cfg: Config, checkpoint: str | None = None, seed: int = 0, device: str | None = None) -> nn.Module:
    """Build a config's whole model in eval mode, its SyncBatchNorm made an ordinary one.

    Args:
        cfg: as `load_config` reads it.
        checkpoint: file or address of the weights, all of which must fit; None leaves what building makes, which is
            no initialisation: mmengine's Runner calls ``init_weights`` for that.
        seed: for what the checkpoint does not hold.
        device: where it goes; None means mmengine's choice.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the checkpoint is damaged or of another architecture.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    set_random_seed(seed)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if checkpoint is not None:
        load_checkpoint_strict(model, checkpoint)
    return model.to(device or get_device()).eval()
