"""Files appear whole, writers do not meet, and a work_dir has one training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmssmprune.checkpoints.writing import (
    LOCK_NAME,
    in_training,
    remove_stale_parts,
    sole_training,
    write_whole,
    written_whole,
)

WAITS = """
import sys
from mmssmprune.checkpoints.writing import sole_training, written_whole
with {}:
    print('in', flush=True)
    sys.stdin.read()
"""


def start(block: str) -> subprocess.Popen:
    """A process that stays in a ``with`` block until it is killed. Its imports take some seconds."""
    command = [sys.executable, '-c', WAITS.format(block)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'in\n'
    return process


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_two_writers_of_one_file_do_not_mix_their_bytes(tmp_path: Path):
    path = tmp_path / 'a.pth'
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        Path(first).write_bytes(b'1' * 9)
        Path(second).write_bytes(b'2' * 5)
        assert not path.exists()
    assert path.read_bytes() == b'1' * 9  # the one that ended last
    assert os.listdir(tmp_path) == ['a.pth']
    assert path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o22))


def test_a_failed_writer_leaves_the_old_file_and_no_part(tmp_path: Path):
    path = tmp_path / 'a.pth'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), written_whole(path) as part:
        Path(part).write_text('new')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['a.pth']


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / 'new' / 'compare.md'
    write_whole(target, 'old: ±')
    assert target.read_bytes() == 'old: ±'.encode()
    monkeypatch.setattr(Path, 'replace', lambda *args: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match=r'compare\.md cannot be written: disk full'):
        write_whole(target, b'new')
    assert target.read_text() == 'old: ±'
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize('killed', [True, False])
def test_parts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, killed: bool):
    process = start(f'written_whole({str(tmp_path / "a.pth")!r})')
    (part,) = tmp_path.glob('*.part')
    if killed:
        kill(process)
    with written_whole(tmp_path / 'a.pth') as own:
        Path(own).write_text('whole')
        remove_stale_parts(tmp_path)
    assert part.exists() is not killed
    assert (tmp_path / 'a.pth').read_text() == 'whole'
    if not killed:
        kill(process)


def test_a_second_training_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path):
    process = start(f'sole_training({str(tmp_path)!r})')
    assert in_training(tmp_path)
    refused = pytest.raises(ValueError, match=rf'{tmp_path} is in use by another training \(process {process.pid} on ')
    with refused, sole_training(tmp_path):
        pass
    kill(process)
    assert not in_training(tmp_path)
    (tmp_path / 'iter_4.pth.part').write_text('half')
    with sole_training(tmp_path), pytest.raises(ValueError, match=rf'in use .*process {os.getpid()} on'):
        assert not list(tmp_path.glob('*.part'))
        with sole_training(tmp_path):  # nor twice in one process
            pass
    with sole_training(tmp_path):
        pass


def test_a_forked_data_worker_does_not_keep_the_lock(tmp_path: Path):
    with sole_training(tmp_path):
        worker = os.fork()
        if worker == 0:
            signal.pause()
    try:
        with sole_training(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_without_locks_on_the_file_system_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fcntl

    def unsupported(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', unsupported)
    (tmp_path / 'b.pth.part').write_text('who knows')
    with sole_training(tmp_path), written_whole(tmp_path / 'a.pth') as part:
        Path(part).write_text('whole')
    assert sorted(os.listdir(tmp_path)) == sorted(['a.pth', 'b.pth.part', LOCK_NAME])
