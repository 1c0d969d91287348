"""Doing many runs: worker processes, the order, the time limit, and what is told meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssmprune.analysis.results import write_atomically
from mmssmprune.checkpoints.reading import is_complete_checkpoint

from .estimate import Estimator
from .plan import Places, Run, Setting
from .records import read_result

# Seconds until a training that another process is at is looked at again.
LOOK_AGAIN = 30


@dataclass(frozen=True)
class Job:
    """What one worker does at a time: a run, or a dense training that runs wait for."""

    setting: Setting
    seed: int
    run: Run | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.run.name if self.run else f'{self.setting.name}/dense training/seed{self.seed}'


@dataclass
class Summary:
    """What came of it."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


class Scheduler:
    """Runs in order, each once its dense checkpoint is there.

    Args:
        runs: in the order to do them; those with a whole result are skipped.
        places: where everything lies.
        jobs: worker processes.
        minutes: start nothing that would not be finished after so many; None for no limit.
        tell: called with a line when a job ends, and with the names of those at work.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        places: Places,
        jobs: int = 1,
        minutes: float | None = None,
        tell: Callable[[Scheduler, str | None], None] = lambda scheduler, line: None,
    ) -> None:
        self.places, self.jobs, self.tell = places, jobs, tell
        self.pending = [run for run in runs if read_result(places.result(run)) is None]
        self.skipped = len(runs) - len(self.pending)
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.estimator = Estimator(places)
        self.summary = Summary()
        self.working: dict[Future, tuple[Job, float]] = {}
        self._trained: set[tuple[str, int]] = set()
        self._failed_dense: dict[tuple[str, int], str] = {}
        self._busy_until: dict[str, float] = {}

    def work(self) -> Summary:
        """Do all that there is time for."""
        pool = self._new_pool()
        try:
            while True:
                while len(self.working) < self.jobs and (job := self._next()) is not None:
                    self._start(job, pool)
                if not self.working and not self._waiting():
                    break
                if self._step():
                    pool.shutdown(wait=False)
                    pool = self._new_pool()
        except BaseException:
            _stop_workers()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self.summary.left = [run.name for run in self.pending]
        return self.summary

    def _new_pool(self) -> ProcessPoolExecutor:
        # spawn: a forked torch would share its parent's threads and locks.
        context = multiprocessing.get_context('spawn')
        return ProcessPoolExecutor(
            self.jobs, context, initializer=_prepare_worker, initargs=(os.getpid(), self.places.root / 'workers.log')
        )

    def _next(self) -> Job | None:
        """The first job that can begin now and end in time."""
        for run in self.pending:
            job = self._job_for(run)
            if job is not None and self._busy_until.get(job.name, 0) < time.monotonic() and self._fits(job):
                return job
        return None

    def _job_for(self, run: Run) -> Job | None:
        """The run, or the dense training it waits for; None if that one is at work or has failed."""
        key = (run.setting.name, run.seed)
        if key not in self._trained and is_complete_checkpoint(self.places.dense_checkpoint(run.setting, run.seed)):
            self._trained.add(key)
        if key in self._trained:
            return Job(run.setting, run.seed, run)
        job = Job(run.setting, run.seed)
        at_work = any(other == job for other, _ in self.working.values())
        return None if at_work or key in self._failed_dense else job

    def _fits(self, job: Job) -> bool:
        if self.deadline is None:
            return True
        estimate = self.estimator.run(job.run) if job.run else self.estimator.dense(job.setting)
        return time.monotonic() + estimate <= self.deadline

    def _waiting(self) -> bool:
        """Whether a job could begin once another process is done with it."""
        jobs = [self._job_for(run) for run in self.pending]
        return any(job is not None and job.name in self._busy_until and self._fits(job) for job in jobs)

    def _start(self, job: Job, pool: ProcessPoolExecutor) -> None:
        self._busy_until.pop(job.name, None)
        if job.run:
            self.pending.remove(job.run)
        self.working[pool.submit(_work, job, self.places)] = (job, time.monotonic())
        self.tell(self, None)

    def _step(self) -> bool:
        """Wait a little, take what is finished; True if the pool broke."""
        broken = False
        if not self.working:
            time.sleep(2)
        finished, _ = wait(self.working, timeout=2, return_when=FIRST_COMPLETED)
        for future in finished:
            job, started = self.working.pop(future)
            try:
                kind, value = future.result()
            except BrokenProcessPool:
                broken, kind, value = True, 'failed', 'a worker process died, perhaps for lack of memory'
            self._finish(job, kind, value, time.monotonic() - started)
        self.tell(self, None)
        return broken

    def _finish(self, job: Job, kind: str, value: Any, seconds: float) -> None:
        if kind == 'busy':
            self._busy_until[job.name] = time.monotonic() + LOOK_AGAIN
            if job.run:
                self.pending.insert(0, job.run)
            return
        if kind == 'failed':
            self._fail(job, value)
        elif job.run:
            self.estimator.add(value)
            self.summary.done.append(job.name)
            self.places.error(job.run).unlink(missing_ok=True)
        else:
            self.estimator.add_training(job.setting.name, value)
        word = 'FAILED' if kind == 'failed' else 'done'
        self.tell(self, f'{word}  {job.name}  ({seconds:.0f} s)')

    def _fail(self, job: Job, reason: str) -> None:
        self.summary.failed[job.name] = reason
        if job.run:
            write_atomically(self.places.error(job.run), reason)
            return
        self._failed_dense[job.setting.name, job.seed] = reason
        waiting = [run for run in self.pending if (run.setting.name, run.seed) == (job.setting.name, job.seed)]
        self.pending = [run for run in self.pending if run not in waiting]
        self.summary.failed |= {run.name: 'its dense training failed' for run in waiting}


def _work(job: Job, places: Places) -> tuple[str, Any]:
    """In a worker: do a job; say whether it is 'done', 'busy' (elsewhere) or 'failed', and its result or reason."""
    from . import runs
    from .training import BusyError, TrainingError, train_dense

    try:
        if job.run:
            return 'done', runs.execute(job.run, places)
        return 'done', train_dense(job.setting, job.seed, places)
    except BusyError as error:
        return 'busy', str(error)
    except TrainingError as error:
        return 'failed', str(error)
    except Exception:
        return 'failed', traceback.format_exc()


def _prepare_worker(parent: int, log: Path) -> None:
    """Print into a file, and end, children included, when asked to and when the parent is gone."""
    import torch

    torch.set_num_threads(1)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('a', encoding='utf-8') as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)  # ends the training at work
    time.sleep(5)
    os._exit(1)  # the pool takes the exit of a job for its result and would wait for the next one


def _stop_workers() -> None:
    for process in multiprocessing.active_children():
        process.terminate()
    for process in multiprocessing.active_children():
        process.join(timeout=10)
