"""Python processes of their own for Triton: an interpreter has to be chosen before Triton is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='Triton is not installed')


def run_python(*command: str, **variables: str) -> subprocess.CompletedProcess:
    """Run ``python *command`` in the repository, with ``variables`` in its environment."""
    env = {**os.environ, **variables}
    return subprocess.run([sys.executable, *command], cwd=REPO, env=env, capture_output=True, text=True)


def assert_passes_in_the_interpreter(file: Path, *options: str) -> None:
    """Run the tests of a file with Triton's interpreter: the quick ones, unless pytest's ``options`` say others."""
    done = run_python('-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(file), *options, TRITON_INTERPRET='1')
    assert done.returncode == 0, done.stdout[-6000:]
    assert ' passed' in done.stdout
