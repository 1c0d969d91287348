"""Write what was converted: whole or not at all, and with a note of where it comes from."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from mmssmprune import __version__
from mmssmprune.engine.checkpoint import save_checkpoint

from .report import ConversionReport

CONVERTER_VERSION = 1


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
