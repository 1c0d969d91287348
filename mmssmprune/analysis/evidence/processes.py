"""Each run in a process of its own, a few at a time: first the dense models that they start from, then the rows."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

from mmssmprune.checkpoints.reading import is_complete_checkpoint

from .plan import Run, checkpoint_file, error_file, printed_file

_CONTEXT = multiprocessing.get_context('spawn')  # a forked torch would share its parent's threads and locks


def work(
    runs: Sequence[Run], root: Path, jobs: int = 2, minutes: float | None = None, tell: Callable[[str], None] = print
) -> dict[str, str]:
    """Do runs, after the dense trainings that they need.

    Args:
        runs: in the order to do them, none of which has a result.
        root: where everything lies.
        jobs: processes at the same time.
        minutes: begin nothing after so many; None for no limit.
        tell: given a line for each that ends.

    Returns:
        Name of each that failed -> why.
    """
    end = float('inf') if minutes is None else time.monotonic() + 60 * minutes
    dense = {run.dense.name: run.dense for run in runs}.values()
    missing = [run for run in dense if not is_complete_checkpoint(checkpoint_file(root, run))]
    failed = _in_processes(missing, root, jobs, end, tell)
    startless = {run.name: 'its dense training failed' for run in runs if run.dense.name in failed}
    return failed | startless | _in_processes([r for r in runs if r.name not in startless], root, jobs, end, tell)


def _in_processes(
    runs: Sequence[Run], root: Path, jobs: int, end: float, tell: Callable[[str], None]
) -> dict[str, str]:
    waiting, busy, failed = list(runs), {}, {}
    try:
        while busy or (waiting and time.monotonic() < end):
            while waiting and len(busy) < jobs and time.monotonic() < end:
                run = waiting.pop(0)
                printed_file(root, run).parent.mkdir(parents=True, exist_ok=True)
                printed_file(root, run).write_text('')
                error_file(root, run).unlink(missing_ok=True)  # of an earlier try
                process = _CONTEXT.Process(target=_do, args=(run, root))
                process.start()
                busy[process.sentinel] = process, run, time.monotonic()
            for sentinel in wait(list(busy)):
                process, run, begun = busy.pop(sentinel)
                process.join()
                if process.exitcode:
                    printed = printed_file(root, run).replace(error_file(root, run))
                    said = printed.read_text(encoding='utf-8', errors='replace')
                    failed[run.name] = f'{said}its process ended with code {process.exitcode}'
                else:
                    printed_file(root, run).unlink()
                tell(f'{"FAILED" if process.exitcode else "done"}  {run.name}  ({time.monotonic() - begun:.0f} s)')
    finally:
        for process, run, _ in busy.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # it may have had no group yet
            process.join()
            printed_file(root, run).unlink(missing_ok=True)
    return failed


def _do(run: Run, root: Path) -> None:
    """In its own process, a group with the training that it starts: end with the tool, print into a file."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_the_tool, daemon=True).start()
    with printed_file(root, run).open('a') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    from .runs import execute  # brings torch, mmdet and mmseg, which the tool itself does without

    execute(run, root)


def _end_with_the_tool() -> None:
    multiprocessing.parent_process().join()
    os.killpg(0, signal.SIGKILL)
