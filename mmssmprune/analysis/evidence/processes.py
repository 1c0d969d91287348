"""Runs in a few processes: first the dense models that they start from, then the runs in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mmssmprune.analysis.results import write_atomically
from mmssmprune.checkpoints.reading import is_complete_checkpoint

from .plan import Run, StudyFolders, StudyRow
from .records import read_result

TRAINING = 'training'  # the phase of a dense model's
_CONTEXT = multiprocessing.get_context('spawn')  # a forked torch would share its parent's threads and locks


@dataclass
class StudyProgress:
    """Names of runs: done, failed (with the reason), left for another time, and at work (since when)."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    working: dict[str, float] = field(default_factory=dict)


def pending(runs: Sequence[Run], folders: StudyFolders) -> list[Run]:
    """Those without a whole result."""
    return [run for run in runs if read_result(folders.result(run)) is None]


def work(
    runs: Sequence[Run],
    folders: StudyFolders,
    jobs: int = 2,
    minutes: float | None = None,
    tell: Callable[[StudyProgress, str | None], None] = lambda progress, line: None,
) -> StudyProgress:
    """Do the runs that have no whole result.

    Args:
        runs: in the order to do them.
        folders: where everything lies.
        jobs: processes at the same time.
        minutes: begin nothing after so many; None for no limit.
        tell: called when something begins, and with a line when it ends.
    """
    runs, progress = pending(runs, folders), StudyProgress()
    end = float('inf') if minutes is None else time.monotonic() + 60 * minutes
    interrupted = threading.Event()
    dense = {
        (run.setting.name, run.seed): replace(run, row=StudyRow(None), phase=TRAINING, label='dense model')
        for run in runs
    }
    missing = [
        run for run in dense.values() if not is_complete_checkpoint(folders.dense_checkpoint(run.setting, run.seed))
    ]

    def do(run: Run) -> None:
        start = dense[run.setting.name, run.seed]
        if run.phase != TRAINING and start.name in progress.failed:
            progress.failed[run.name] = 'its dense training failed'
        elif time.monotonic() >= end or interrupted.is_set():
            progress.left += [run.name] * (run.phase != TRAINING)
        else:
            progress.working[run.name] = begun = time.monotonic()
            tell(progress, None)
            reason = _in_a_process(run, folders)
            del progress.working[run.name]
            if interrupted.is_set():
                return folders.error(run).unlink(missing_ok=True)
            if reason:
                progress.failed[run.name] = reason
            elif run.phase != TRAINING:
                progress.done.append(run.name)
            tell(progress, f'{"FAILED" if reason else "done"}  {run.name}  ({time.monotonic() - begun:.0f} s)')

    with ThreadPoolExecutor(jobs) as threads:  # each waits for a process of its own
        try:
            for part in (missing, runs):
                list(threads.map(do, part))
        except BaseException:
            interrupted.set()
            threads.shutdown(wait=False, cancel_futures=True)
            _kill_processes()
            raise
    return progress


def _in_a_process(run: Run, folders: StudyFolders) -> str:
    """Do a run or a dense training; empty if it went well, else why not, which is in its error file as well."""
    error = folders.error(run)
    error.unlink(missing_ok=True)
    process = _CONTEXT.Process(target=_do, args=(run, folders, os.getpid()))
    process.start()
    while process.exitcode is None:
        process.join(1)
    if process.exitcode == 0:
        return ''
    if not error.is_file():
        write_atomically(error, f'its process ended with code {process.exitcode}, perhaps for lack of memory')
    return error.read_text(encoding='utf-8')


def _do(run: Run, folders: StudyFolders, parent: int) -> None:
    """In its own process, a group with the training that it starts: end with the parent, print into a file."""
    os.setpgid(0, 0)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    folders.root.mkdir(parents=True, exist_ok=True)
    with (folders.root / 'workers.log').open('a', encoding='utf-8') as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())

    import torch

    from . import runs

    torch.set_num_threads(1)
    try:
        if run.phase == TRAINING:
            runs.train_dense(run.setting, run.seed, folders)
        else:
            runs.execute(run, folders)
    except Exception as error:
        told = str(error) if isinstance(error, runs.TrainingError) else traceback.format_exc()
        write_atomically(folders.error(run), told)
        sys.exit(1)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _kill_processes() -> None:
    while processes := multiprocessing.active_children():
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # it may have had no group yet
            process.join()
