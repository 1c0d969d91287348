"""Build mmcv with its compiled operators once per Python, torch and mmcv version.

Usage: python tools/env/mmcv_wheel.py onedl-mmcv==2.3.6

Prints the path of the cached wheel as the last line of stdout; progress goes to stderr. Needs torch, setuptools, wheel
and ninja in the running Python, and a C++ compiler. The cache is $MMSSMPRUNE_CACHE, or mmssmprune/ in the user's cache
folder; it is never inside the clone. $MAX_JOBS bounds the number of compilers.

Where torch sees a GPU, or with FORCE_CUDA=1, the CUDA operators are compiled too (TORCH_CUDA_ARCH_LIST keeps that
short), and kept apart from wheels without them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmssmprune._cache import cache_folder, digest, make_private, whole_file  # of this clone, not installed

# With current setuptools CFLAGS replaces Python's own flags, so the whole set stands here.
CFLAGS = ['-O2', '-g0', '-DNDEBUG', '-fwrapv', '-fPIC']
# What mmcv and torch's BuildExtension add; a precompiled header is used only under equal flags.
EXTENSION_FLAGS = ['-std=c++17', '-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext']


def say(text: str) -> None:
    """Print one line of progress."""
    print(f'mmcv: {text}', file=sys.stderr, flush=True)


def with_cuda() -> bool:
    """Whether mmcv's build compiles CUDA operators; the same question as in its setup.py."""
    import torch

    return torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'


def cache_dir(requirement: str) -> Path:
    """Folder that holds the wheel of ``requirement`` for this Python, machine and torch."""
    import torch

    python = f'py{sys.version_info.major}.{sys.version_info.minor}-{sysconfig.get_platform()}'
    package = requirement.replace('==', '') + ('-cuda' if with_cuda() else '')
    return cache_folder() / f'{python}-torch{torch.__version__}-{package}'


def compiler() -> list[str]:
    """The C++ compiler as torch's BuildExtension picks it."""
    return shlex.split(os.environ.get('CXX') or 'c++')


def missing_tool() -> str | None:
    """Say in a sentence which tool the build lacks, or None."""
    from torch.utils.cpp_extension import CUDA_HOME

    if shutil.which(compiler()[0]) is None:
        return f'no C++ compiler: `{compiler()[0]}` was not found (Debian, Ubuntu: apt-get install g++).'
    include = Path(sysconfig.get_path('include'))
    if not (include / 'Python.h').is_file():
        return f'no Python headers in {include} (Debian, Ubuntu: apt-get install python3-dev).'
    if with_cuda() and CUDA_HOME is None:
        return (
            'torch sees a GPU but there is no nvcc: install the CUDA toolkit that torch was built with, or set '
            'CUDA_VISIBLE_DEVICES= to build and run for the CPU only.'
        )
    return None


def precompile_torch_header(folder: Path) -> list[str]:
    """Precompile torch/types.h, whose parsing is most of the build's time, and return the flags that use it.

    GCC falls back to the plain header when any flag differs, so a miss costs time and nothing else.
    """
    from torch.utils.cpp_extension import include_paths

    about = subprocess.run([*compiler(), '-v'], capture_output=True, text=True).stderr
    if 'gcc version' not in about:  # clang refuses a header of other flags instead of falling back
        return []
    header = folder / 'torch_types.h'
    header.write_text('#include <torch/types.h>\n')
    includes = [f'-I{path}' for path in [*include_paths(), sysconfig.get_path('include')]]
    flags = [*includes, *CFLAGS, *EXTENSION_FLAGS]
    done = subprocess.run([*compiler(), '-x', 'c++-header', *flags, header, '-o', f'{header}.gch'], capture_output=True)
    if done.returncode:
        say('torch/types.h did not precompile; going on without, which takes longer')
        return []
    return ['-include', str(header)]


def show_progress(line: str) -> None:
    """Print every tenth part of ninja's ``[12/90]`` lines."""
    step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
    if step and int(step[1]) % max(int(step[2]) // 10, 1) == 0:
        say(f'compiled {step[1]} of {step[2]} files')


def compile_wheel(requirement: str, folder: Path) -> Path:
    """Compile ``requirement`` into a wheel in ``folder``, and make sure that the operators are in it."""
    flags = shlex.join(CFLAGS + precompile_torch_header(folder))
    env = dict(os.environ, MMCV_WITH_OPS='1', CFLAGS=flags, CXXFLAGS=flags)
    env.setdefault('MAX_JOBS', str(os.cpu_count() or 2))
    # With build isolation torch is missing, and without --no-cache-dir an old torch may come back: both end, without a
    # word, in operators that cannot be imported.
    options = ['-v', '--no-cache-dir', '--no-deps', '--no-build-isolation', '--no-binary', ':all:']
    command = [sys.executable, '-m', 'pip', 'wheel', *options, '--wheel-dir', str(folder), requirement]
    log: list[str] = []
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            log.append(line)
            show_progress(line)
    wheels = list(folder.glob('*.whl'))
    if process.returncode or not wheels:
        sys.exit(''.join(log[-60:]) + f'mmcv: building {requirement} failed; the output above says why.')
    with zipfile.ZipFile(wheels[0]) as archive:
        if not any(name.startswith('mmcv/_ext') for name in archive.namelist()):
            sys.exit(''.join(log[-60:]) + f'mmcv: {requirement} was built without its operators (mmcv/_ext).')
    return wheels[0]


def build(requirement: str, target: Path) -> None:
    """Put the wheel of ``requirement`` into the folder ``target``; on failure leave nothing there."""
    with tempfile.TemporaryDirectory(prefix='mmssmprune-mmcv-') as folder:
        wheel = compile_wheel(requirement, Path(folder))
        make_private(target)
        partial = target / f'{wheel.name}.{os.getpid()}.partial'
        shutil.copyfile(wheel, partial)
        partial.chmod(0o600)
        # The build number of a wheel's name, which starts with a digit, is where the hash may stand.
        name, version, *tags = wheel.name.split('-')
        partial.replace(target / '-'.join([name, version, f'0{digest(partial)}', *tags[-3:]]))


def main() -> None:
    """Print the path of the wheel, building it first if the cache has none."""
    if len(sys.argv) != 2 or '==' not in sys.argv[1]:
        sys.exit('usage: python tools/env/mmcv_wheel.py onedl-mmcv==VERSION')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes
    requirement = sys.argv[1]
    target = cache_dir(requirement)
    try:
        make_private(target.parent)
        if target.exists():
            make_private(target)
    except OSError as error:
        sys.exit(f'mmcv: {error}')
    if not whole_file(target, '*.whl'):
        if missing := missing_tool():
            sys.exit(f'mmcv: {missing}')
        say(f'compiling {requirement} for {target.name}; this takes some minutes, once')
        build(requirement, target)
    print(whole_file(target, '*.whl'))


if __name__ == '__main__':
    main()
