"""Write what was converted: whole or not at all, and with a note of where it comes from."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from mmssmprune import __version__
from mmssmprune.engine.checkpoint import save_checkpoint

from .report import ConversionReport

CONVERTER_VERSION = 1


def check_destination(source: str | Path, destination: str | Path, *, force: bool) -> None:
    """Refuse to write over a file, unless ``force``, and over the source in any case.

    Raises:
        ValueError: Says which.
    """
    source, destination = Path(source), Path(destination)
    if destination.is_dir():
        raise ValueError(f'{destination} is a folder; give the name of the file to write')
    if destination.exists() and source.exists() and destination.samefile(source):
        raise ValueError(f'{destination} is the file to convert; give another name for the result')
    if destination.exists() and not force:
        raise ValueError(f'{destination} exists; give another name, or --force to replace it')


def write_converted(content: dict[str, Any], report: ConversionReport, destination: str | Path) -> None:
    """``content`` (the entry of the weights) with a ``meta`` entry, under the name ``destination`` once it is whole."""
    meta = dict(
        mmssmprune_version=__version__,
        converter_version=CONVERTER_VERSION,
        direction=report.direction,
        source=Path(report.source).name,
        source_sha256=report.source_sha256,
        architecture=report.architecture,
        task=report.task,
        time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    )
    save_checkpoint(dict(meta=meta, **content), destination)
