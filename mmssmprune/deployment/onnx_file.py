"""A part of a model as an ONNX file of standard operators, which any ONNX runtime takes."""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from mmssmprune.checkpoints.writing import write_whole

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
# The first with the Split and the reductions that the exporter and the loops use.
OPSET = 20
# Beyond this a file of Protocol Buffers cannot be read; weights would have to lie beside it.
_LARGEST = 2**31


def check_packages() -> None:
    """Raise ValueError where a package that ONNX needs is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f'ONNX files need {", ".join(missing)}, which is not installed: pip install -r requirements/export.txt'
        )


def save_onnx(program: ExportedProgram, path: str | Path, output_names: list[str], metadata: Mapping[str, str]) -> None:
    """Translate ``program`` and write it whole or not at all, with ``metadata`` among the model's properties.

    Its input is ``images``; open sizes are called batch, height and width.

    Raises:
        ValueError: an operator has no translation, or the model is too large for one file.
    """
    check_packages()
    from .onnx_forms import FORMS, with_loops

    with _quiet(), torch.no_grad():
        standard = program.run_decompositions(FORMS)
        try:
            made = torch.onnx.export(
                standard, dynamo=True, verbose=False, optimize=False, opset_version=OPSET, input_names=['images'],
                output_names=output_names,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            sentence = f'the model cannot be written as ONNX: {_reason(error)}'
            made = None
        if made is not None:
            with_loops(made.model)
            made.optimize()
    if made is None:
        raise ValueError(sentence)
    _name_sizes(made.model)
    made.model.metadata_props.update(metadata)
    proto = made.model_proto
    if proto.ByteSize() >= _LARGEST:
        raise ValueError(f'the model takes {proto.ByteSize() / 1e9:.1f} GB, and one ONNX file holds 2 GB')
    write_whole(path, proto.SerializeToString())


def _reason(error: Exception) -> str:
    """The line of the exporter's report that names the operator."""
    found = re.findall(r'No ONNX function found for (.+?)\. Failure', str(error))
    return f'there is no translation of {found[0]}' if found else ' '.join(str(error).split())[-400:]


def _name_sizes(model: Any) -> None:
    """Call the open sizes of the images by name, in the shapes of what goes in and comes out."""
    (images,) = model.graph.inputs
    names = dict(zip(map(str, images.shape), ('batch', 'channels', 'height', 'width'), strict=True))
    names = {old: new for old, new in names.items() if not old.isdigit()}
    if not names:
        return
    pattern = re.compile('|'.join(rf'\b{re.escape(old)}\b' for old in names))
    for value in [*model.graph.inputs, *model.graph.outputs]:
        sides = (pattern.sub(lambda found: names[found[0]], str(side)) for side in value.shape)
        value.shape = type(value.shape)([int(side) if side.isdigit() else side for side in sides])


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks are about its own library."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
