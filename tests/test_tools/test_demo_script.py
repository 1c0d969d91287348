"""tools/demo.sh when it is stopped: nothing that it started goes on. A stand-in for Python records what is started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_runs import REPO

SIGNALS = ('SIGTERM', 'SIGINT', 'SIGHUP')
# Notes its process, and a child's, then works for longer than any test; what makes the data is done at once.
PYTHON = """#!/usr/bin/env bash
case "$1" in *make_mini.py) exit 0 ;; esac
sleep 300 &
echo "$$ $!" >"$PIDS/$$"
wait
"""


def alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


def wait_until(done, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return done()


def heed_signals() -> None:
    """What runs in the background or under nohup ignores some, and a shell cannot trap what it was told to ignore."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.fixture
def demo(tmp_path: Path):
    """The running script, and the processes that its two trainings are."""
    for folder in ('tools', 'bin', 'pids'):
        (tmp_path / folder).mkdir()
    script = shutil.copy(REPO / 'tools/demo.sh', tmp_path / 'tools')
    (tmp_path / 'bin/python').write_text(PYTHON)
    (tmp_path / 'bin/python').chmod(0o755)
    path = f'{tmp_path / "bin"}:{os.environ["PATH"]}'
    environment = {**os.environ, 'PATH': path, 'PIDS': str(tmp_path / 'pids')}
    process = subprocess.Popen(
        ['bash', script],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=heed_signals,
    )

    def started() -> list[int]:
        return [int(pid) for file in (tmp_path / 'pids').iterdir() for pid in file.read_text().split()]

    assert wait_until(lambda: len(started()) == 4)
    pids = started()
    yield process, pids
    for pid in (process.pid, *pids):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize('name', SIGNALS)
def test_a_signal_ends_the_trainings_and_is_the_exit_code(demo, name: str):
    process, pids = demo
    assert all(alive(pid) for pid in pids)
    process.send_signal(getattr(signal, name))
    _, told = process.communicate(timeout=20)
    assert process.returncode == -getattr(signal, name)
    assert wait_until(lambda: not any(alive(pid) for pid in pids), 2)
    assert told == b'demo: interrupted; the same command goes on from here\n'


def test_failed_trainings_end_the_script(demo):
    process, pids = demo
    for pid in pids[:2]:
        os.kill(pid, signal.SIGKILL)
    assert all(alive(pid) for pid in pids[2:])
    for pid in pids[2:]:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=20)
    assert process.returncode == 1
