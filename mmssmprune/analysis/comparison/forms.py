"""The forms of a backbone that a comparison can time beside the eager one; neck and heads stay as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mmssmprune.deployment.checking import Run, load
from mmssmprune.deployment.onnx_file import save_onnx
from mmssmprune.deployment.parts import check_choices

Form = Callable[[nn.Module, Tensor], nn.Module]


def _eager(backbone: nn.Module, images: Tensor) -> nn.Module:
    return backbone


def _compiled(backbone: nn.Module, images: Tensor) -> nn.Module:
    return torch.compile(backbone, dynamic=False)


def _as_program(backbone: nn.Module, images: Tensor) -> nn.Module:
    return _exported(backbone, images).module()


def _as_onnx(backbone: nn.Module, images: Tensor) -> nn.Module:
    if images.device.type != 'cpu':
        raise ValueError(f'onnxruntime runs on the CPU, and the models are on {images.device.type}')
    program = _exported(backbone, images)
    names = [f'feature_{i}' for i in range(len(backbone(images)))]
    with tempfile.TemporaryDirectory() as folder:
        save_onnx(program, path := Path(folder) / 'backbone.onnx', names, {})
        return _Session(load(path))


class _Session(nn.Module):
    """A loaded file in the place of its backbone."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.run(images))


def _exported(backbone: nn.Module, images: Tensor) -> ExportedProgram:
    if hasattr(backbone, 'pruning'):
        check_choices(backbone)
    return torch.export.export(backbone, (images,), strict=False)


# What a backbone becomes before it is timed, made at its keep ratio for such images. An exported one stays at that
# ratio and size; it need not be of this package.
FORMS: dict[str, Form] = {'eager': _eager, 'compile': _compiled, 'torch': _as_program, 'onnx': _as_onnx}


def make_form(form: str, backbone: nn.Module, images: Tensor, model: str) -> nn.Module:
    """What is called in the place of ``backbone``, tried once, so that it is refused before an hour of timing.

    Args:
        form: a name of `FORMS`.
        backbone: as it is called for the row, at its keep ratio.
        images: (B, 3, H, W), the only size that the form has to take.
        model: whose backbone it is, for the error.

    Raises:
        RuntimeError: the form cannot be made, or does not run.
    """
    try:
        with torch.no_grad():
            made = FORMS[form](backbone, images)
            if made is not backbone:
                made(images)
    except Exception as error:  # compilers have errors of every kind
        said = ' '.join(str(error).split())[:300]
        raise RuntimeError(f'{model} cannot be timed in the form {form} ({said}); leave it out of --forms') from error
    return made


def room_for_graphs(number: int) -> AbstractContextManager:
    """torch.compile keeps a graph for each model and keep ratio, up to a limit; beyond it runs eagerly, unsaid."""
    from torch._dynamo import config  # takes a second, which only this needs

    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'  # until torch 2.6
    return config.patch({name: getattr(config, name) + number})
