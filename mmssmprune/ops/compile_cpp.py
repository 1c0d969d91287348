"""Compile a C++ file once per source, compiler and CPU, and load it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmssmprune._cache import cache_folder, digest, make_private, whole_file

FLAGS = ['-std=c++17', '-O3', '-ffp-contract=fast', '-fno-math-errno', '-fno-trapping-math', '-fPIC', '-shared', '-w']
# The first that compiles is taken: some compilers know no -fopenmp (macOS), some no -march=native.
EXTRA_FLAGS = (('-march=native', '-fopenmp'), ('-march=native',), ())
COMPILERS = ('c++', 'g++', 'clang++')  # where CXX names none
TIMEOUT = 120  # seconds for one call of the compiler


def load(source: Path) -> tuple[ctypes.CDLL | None, str | None]:
    """Compile ``source``, unless that was done before, and load it.

    What is compiled is kept in `mmssmprune._cache.cache_folder`, and compiled again where it was damaged there. ``CXX``
    names the compiler; ``CXX=none`` thus does without C++.

    Returns:
        The library and None, or None and the reason why there is none.
    """
    names = [os.environ['CXX']] if os.environ.get('CXX') else COMPILERS
    compiler = next((shlex.split(name) for name in names if shutil.which(shlex.split(name)[0])), None)
    if compiler is None:
        return None, f'no C++ compiler ({", ".join(names)}) was found'
    try:
        name, folder = f'{source.stem}-{_key(source, compiler)}', cache_folder()
        make_private(folder)
        path = whole_file(folder, f'{name}-*.so') or _compile(source, compiler, folder, name)
        return ctypes.CDLL(str(path)), None
    except subprocess.CalledProcessError as error:
        return None, f'{shlex.join(compiler)} failed: {(error.stderr or "").strip()[-400:]}'
    except PermissionError as error:
        return None, str(error)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return None, f'it could not be built: {error}'


def in_fresh_thread(self_test: Callable[[], str | None]) -> str | None:
    """Run the self-test of what was compiled where none of torch's modes is on: fake tensors, counters, autocast."""
    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(self_test).result()


def _key(source: Path, compiler: list[str]) -> str:
    """What the compiled code depends on; -march=native makes the CPU one of it."""
    version = _run([*compiler, '--version'])
    parts = (source.read_text(encoding='utf-8'), compiler, version, FLAGS, EXTRA_FLAGS, _cpu())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    """Model and instruction sets of this machine's CPU, as far as the system tells."""
    about = [platform.machine(), platform.processor()]
    info = Path('/proc/cpuinfo')
    lines = info.read_text(encoding='utf-8').splitlines() if info.is_file() else []
    return ' '.join(about + sorted({line for line in lines if line.startswith(('model name', 'flags', 'Features'))}))


def _compile(source: Path, compiler: list[str], folder: Path, name: str) -> Path:
    """Write the library under a temporary name, then rename: another process may be doing the same."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / name
        for extra in EXTRA_FLAGS:
            try:
                _run([*compiler, *FLAGS, *extra, str(source), '-o', str(made)])
                break
            except subprocess.CalledProcessError:
                if extra == EXTRA_FLAGS[-1]:
                    raise
        made.chmod(0o700)
        path = folder / f'{name}-{digest(made)}.so'
        os.replace(made, path)
    return path


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT
    )
    return done.stdout
