"""What backbones and their checkpoints need of mmengine, and plain stand-ins where it is not installed.

With the stand-ins a backbone is a torch module that loads its own weights: `mmssmprune.create_backbone` builds it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

try:
    import mmengine  # noqa: F401

    HAS_MMENGINE = True
except ImportError:
    HAS_MMENGINE = False

if HAS_MMENGINE:
    from mmengine.logging import print_log
    from mmengine.model import BaseModule, BaseTTAModel, is_model_wrapper
    from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
else:

    class _Registry(dict):
        """Names to classes."""

        def register_module(self) -> Callable[[type], type]:
            """A decorator that enters a class under its name."""

            def register(cls: type) -> type:
                self[cls.__name__] = cls
                return cls

            return register

    class _InitialisedModule(nn.Module):
        """What is left of mmengine's BaseModule for a backbone, which has initialised itself when it is built."""

        def __init__(self, init_cfg: Mapping[str, Any] | None = None) -> None:
            super().__init__()
            self.init_cfg = copy.deepcopy(init_cfg)
            self.is_init = False

        def init_weights(self) -> None:
            """Called for anything but pretrained weights, which the backbone loads itself."""
            raise ValueError(f'init_cfg {self.init_cfg!r} needs mmengine, which is not installed')

    MODELS, WEIGHT_INITIALIZERS = _Registry(), _Registry(Pretrained=object)
    BaseModule = _InitialisedModule
    BaseTTAModel = ()  # nothing is an instance of it

    def is_model_wrapper(model: nn.Module) -> bool:
        """Whether a model holds the one that counts as ``module``."""
        return isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))

    def print_log(message: str, logger: Any = None, level: int = logging.INFO) -> None:
        """Into the log of this package."""
        logging.getLogger('mmssmprune').log(level, message)


__all__ = [
    'HAS_MMENGINE',
    'MODELS',
    'WEIGHT_INITIALIZERS',
    'BaseModule',
    'BaseTTAModel',
    'is_model_wrapper',
    'print_log',
]
