"""Steps that run once: stamps, the log with its progress lines, and the repair after a kill.

A step's stamp holds the key of what the step depended on and is written last, so that an interrupted step runs again.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HEARTBEAT = 20  # seconds between two progress lines of a command that writes to the log
PIP_IS = ('Collecting', 'Downloading', 'Building', 'Installing')  # how the telling lines of pip's output begin


def say(text: str) -> None:
    """Print one line about the set-up; stdout stays free for results."""
    print(f'setup: {text}', file=sys.stderr, flush=True)


def digest(*parts: object) -> str:
    """Key of strings and of the contents of files."""
    texts = [part.read_text(encoding='utf-8') if isinstance(part, Path) else str(part) for part in parts]
    return hashlib.sha256('\0'.join(texts).encode()).hexdigest()


class Steps:
    """The steps of one virtual environment.

    Args:
        venv: the environment; stamps and the log are kept in its folder ``.setup``.
    """

    def __init__(self, venv: Path) -> None:
        self.venv = venv
        self.stamps = venv / '.setup'
        self.log = self.stamps / 'log.txt'

    def step(self, name: str, about: str, key: str, action: Callable[[], object]) -> None:
        """Run ``action`` unless it has been run to its end with the same ``key``."""
        stamp, begun = self.stamps / name, self.stamps / f'{name}.begun'
        if stamp.is_file() and not begun.exists() and stamp.read_text() == key:
            return
        say(about)
        begun.touch()
        action()
        partial = self.stamps / f'{name}.partial'
        partial.write_text(key)
        partial.replace(stamp)
        begun.unlink()

    def forget(self, *names: str) -> None:
        """Make these steps run again."""
        for name in names:
            (self.stamps / name).unlink(missing_ok=True)

    def run(self, *command: str | Path, capture: bool = False) -> str:
        """Run a command to its end with a progress line now and then; if it fails, show why and end the set-up.

        With ``capture`` its stdout is returned and its stderr shown; otherwise both go to the log.
        """
        command = [str(part) for part in command]
        with open(self.log, 'a', encoding='utf-8') as log:
            streams = {'stdout': subprocess.PIPE} if capture else {'stdout': log, 'stderr': subprocess.STDOUT}
            # A session of its own: one signal then ends pip together with its compilers. Open files are inherited for
            # the sake of the lock, which keeps the next make waiting for a pip that has outlived this one.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, text=True, start_new_session=True, close_fds=False, **streams
            )
            try:
                output = process.communicate()[0] if capture else self.wait(process)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)
                    process.wait()
        if process.returncode:
            if not capture:
                print('\n'.join(self.log_lines()[-25:]), file=sys.stderr)
            sys.exit(
                f'setup: `{shlex.join(command)}` failed, see above: once that is mended make goes on from here, or '
                '`make distclean` starts over.'
            )
        return output

    def wait(self, process: subprocess.Popen) -> str:
        """Wait for ``process``, printing what pip does every ``HEARTBEAT`` seconds."""
        start = time.monotonic()
        while True:
            try:
                process.wait(HEARTBEAT)
                return ''
            except subprocess.TimeoutExpired:
                doing = [line.strip() for line in self.log_lines() if line.lstrip().startswith(PIP_IS)]
                say(f'  {time.monotonic() - start:.0f} s: {"".join(doing[-1:])[:90]}')

    def log_lines(self) -> list[str]:
        """What the commands have written so far."""
        return self.log.read_text(encoding='utf-8', errors='replace').splitlines()

    def site_packages(self) -> Path:
        """Where pip installs to."""
        return next(self.venv.glob('lib/python3.*/site-packages'))

    def installed(self) -> list[str]:
        """The installed distributions as sorted 'name-version' strings."""
        return sorted(path.name.removesuffix('.dist-info') for path in self.site_packages().glob('*.dist-info'))

    def interrupted(self) -> bool:
        """Whether the last run was cut off within a step."""
        return any(self.stamps.glob('*.begun'))

    def remove_torn_packages(self) -> list[str]:
        """Remove what a killed pip left half-installed, which pip itself would take for installed; return the names."""
        for leftover in self.site_packages().glob('~*'):
            shutil.rmtree(leftover, ignore_errors=True)
        torn = [info for info in self.site_packages().glob('*.dist-info') if not is_whole(info)]
        for info in torn:
            shutil.rmtree(info)
        return [info.name.removesuffix('.dist-info') for info in torn]


def is_whole(info: Path) -> bool:
    """Whether every file that the distribution in ``info`` recorded is there; pip writes the record last."""
    record = info / 'RECORD'
    if not record.is_file():
        return False
    with open(record, newline='', encoding='utf-8') as file:
        paths = [row[0] for row in csv.reader(file) if row and not row[0].endswith('.pyc')]
    return all((info.parent / path).exists() for path in paths)
