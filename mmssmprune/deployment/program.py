"""A part of a model as a `torch.export` program, of fixed or open sizes, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from mmssmprune.checkpoints.writing import written_whole
from mmssmprune.ops.backends import AT_RUN_TIME

from .parts import ExportedPart, check_choices

# What stays open in a file besides nothing: the batch size; or that and the sizes of the images.
DYNAMIC = ('batch', 'hw')
# Operators of this package and the place of the backend among their arguments.
_BACKEND_AT = {torch.ops.mmssmprune.multi_scan.default: 18, torch.ops.mmssmprune.kept_conv.default: 11}
METADATA = 'mmssmprune.json'  # the name of what `save` writes beside the program, in the same file


def export_program(
    part: ExportedPart, shape: tuple[int, int], dynamic: str | None = None, batch: int = 1
) -> ExportedProgram:
    """Trace ``part`` on the CPU.

    Args:
        part: what is exported.
        shape: (H, W) of the images in pixels; where sizes stay open, an example of them.
        dynamic: one of `DYNAMIC`; None fixes everything.
        batch: images in a batch, where that is fixed.

    Raises:
        ValueError: an unknown ``dynamic``, a choice of the pruning that needs fixed sizes, an image size that the model
            refuses, or a model that cannot be traced.
    """
    if dynamic not in (None, *DYNAMIC):
        raise ValueError(f'dynamic is {dynamic!r}; the names are {", ".join(DYNAMIC)}, or None')
    check_choices(part.backbone, open_sizes=dynamic == 'hw')
    images = torch.rand(2 if dynamic else batch, channels_of(part), *shape)
    with torch.no_grad():
        part(images)  # a size that the model refuses is refused here, in the model's own words
        open_sizes = {0: Dim('batch', min=1)} if dynamic else {}
        if dynamic == 'hw':
            open_sizes |= {2: Dim.AUTO, 3: Dim.AUTO}
        try:
            return torch.export.export(part, (images,), dynamic_shapes=(open_sizes,), strict=False)
        except Exception as error:  # torch has no common class for what it cannot trace
            sentence = _cannot(part, dynamic, error)
    raise ValueError(sentence)


def save_program(program: ExportedProgram, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write ``program`` whole or not at all; its operators choose their backends where they run.

    ``torch.export.load`` reads it after ``import mmssmprune.ops``; ``metadata`` is JSON in the file's `METADATA`.
    """
    for node in program.graph.nodes:
        if node.target in _BACKEND_AT:
            node.update_arg(_BACKEND_AT[node.target], AT_RUN_TIME)
    with written_whole(path, suffix='.part.pt2') as part:
        torch.export.save(program, part, extra_files={METADATA: json.dumps(metadata)})


def channels_of(part: ExportedPart) -> int:
    """Channels of the images, which the first convolution of the backbone takes."""
    return next(m.in_channels for m in part.backbone.patch_embed.modules() if isinstance(m, torch.nn.Conv2d))


def _cannot(part: ExportedPart, dynamic: str | None, error: Exception) -> str:
    what = {None: 'of fixed sizes', 'batch': 'of any batch size', 'hw': 'of any image size'}[dynamic]
    first = ' '.join(str(error).split())[:300]
    return f'{type(part.module).__name__} cannot be exported {what}: {type(error).__name__}: {first}'
