"""Which settings and studies are run: those of `study`, or of a file that a user gives."""

from __future__ import annotations

import runpy
from pathlib import Path

from . import study
from .plan import Setting, Study


def load_plan(path: str | Path | None = None) -> tuple[list[Setting], list[Study]]:
    """The settings and studies that a Python file defines as SETTINGS and STUDIES; by default those of `study`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not define them.
    """
    if path is None:
        return list(study.SETTINGS), list(study.STUDIES)
    if not Path(path).is_file():
        raise FileNotFoundError(f'plan {path} does not exist')
    names = runpy.run_path(str(path))
    if 'SETTINGS' not in names or 'STUDIES' not in names:
        raise ValueError(
            f'plan {path} has to define SETTINGS and STUDIES, as mmssmprune/analysis/evidence/study.py does'
        )
    return list(names['SETTINGS']), list(names['STUDIES'])
