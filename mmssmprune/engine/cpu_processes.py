"""Several processes on the CPU: what stands in for NCCL, CUDA devices and SyncBatchNorm, so that no GPU is needed."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import nn


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's DDP on the CPU, where torch's SyncBatchNorm does not run: each process normalises its own images.

    The running statistics of BatchNorm then differ between processes; a checkpoint holds those of rank 0.
    """

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        if any(isinstance(m, nn.SyncBatchNorm) for m in module.modules()):
            print_log('SyncBatchNorm needs a GPU: each process normalises its own images', logger='current')
        super().__init__(revert_sync_batchnorm(module), device_ids=None, **kwargs)


def join_cpu_processes(cfg: Config) -> None:
    """Join the processes that torchrun started, through gloo, and choose the wrapper of the model.

    mmengine would ask for a CUDA device here; it leaves alone what is initialised already.
    """
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    unused = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = dict(
        type='CPUDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=unused
    )
    print_log(f'no GPU: {torch.distributed.get_world_size()} processes on the CPU talk through gloo', logger='current')
