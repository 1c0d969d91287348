"""Silence for libraries that print."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO


@contextmanager
def quiet() -> Iterator[None]:
    """Keep mmengine's log and pycocotools' prints off the screen, where a progress bar lives; log files get theirs.

    A logger made inside keeps writing to the same nowhere afterwards.
    """
    with redirect_stdout(StringIO()):
        yield
