"""Make .venv ready for `make`: pinned packages, mmcv with its compiled operators, this package in editable mode.

Usage: python tools/env/bootstrap.py [lint]     (lint: only what `make lint` needs)

A second run does nothing, an interrupted one goes on where it was, and a change of the pins, of torch or of the clone's
place repeats only what depends on it. Standard library only, because it runs before anything is installed. $VENV,
$TORCH_SPEC and $TORCH_INDEX_ARGS come from the Makefile.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from setup_steps import Steps, digest, say

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / (os.environ.get('VENV') or '.venv')
PYTHON = VENV / 'bin' / 'python'
TORCH_SPEC = os.environ.get('TORCH_SPEC') or 'torch==2.13.0'
TORCH_INDEX_ARGS = shlex.split(os.environ.get('TORCH_INDEX_ARGS', ''))
PACKAGES = ('mminstall', 'classification', 'runtime', 'export', 'tests')
CHECK = 'import mmcv._ext, mmengine, mmdet, mmseg, mmssmprune.models, mmpretrain'

STEPS = Steps(VENV)


def requirement_file(name: str) -> Path:
    return ROOT / 'requirements' / f'{name}.txt'


def pip_install(*args: str | Path) -> None:
    STEPS.run(PYTHON, '-m', 'pip', 'install', '--disable-pip-version-check', '--progress-bar', 'off', *args)


def pip_install_pinned(*names: str, also: str = '') -> None:
    """Install requirement files, and the requirement ``also``, at the versions of constraints.txt."""
    files = [part for name in names for part in ('-r', requirement_file(name))]
    pip_install('-c', requirement_file('constraints'), *files, *([also] if also else []))


def torch_version() -> str:
    """Version of the installed torch with its build tag, such as 2.13.0+cpu, or '' without torch."""
    return next((name.removeprefix('torch-') for name in STEPS.installed() if name.startswith('torch-')), '')


def mmcv_requirement() -> str:
    """The pin of mmcv in requirements/mminstall.txt."""
    lines = requirement_file('mminstall').read_text(encoding='utf-8').split('\n')
    return next(line for line in lines if line.startswith('onedl-mmcv=='))


def create_venv() -> str:
    """Create the virtual environment unless it is there, and return its Python's version; touch no foreign one."""
    created, ours = STEPS.stamps / 'created', STEPS.stamps.is_dir()
    if not ours and VENV.exists() and any(VENV.iterdir()):
        sys.exit(
            f'setup: {VENV} was not made by this Makefile: move it away or set VENV to another folder; to work in an '
            'environment of your own, `pip install -e .` there and run pytest and the tools without make.'
        )
    running = f'{sys.version_info.major}.{sys.version_info.minor}'
    if created.is_file() and PYTHON.exists():
        version = created.read_text()
        if version != running:
            say(f'{VENV.name} keeps Python {version}; `make distclean` first if you want it with {running}')
        return version
    say(f'creating {VENV.name} with Python {running}')
    shutil.rmtree(VENV, ignore_errors=True)
    STEPS.stamps.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, '-m', 'venv', VENV], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(
            f'{done.stdout}{done.stderr}setup: {sys.executable} cannot create a virtual environment: install its venv '
            'module (Debian, Ubuntu: apt-get install python3-venv) or name another Python with PYTHON=.'
        )
    created.write_text(running)
    return running


def repair_interrupted() -> None:
    """Remove packages that a killed set-up left incomplete, and repeat the steps that may have brought them."""
    torn = STEPS.remove_torn_packages() if STEPS.interrupted() else []
    if torn:
        say(f'the last set-up was cut off, installing again: {", ".join(torn)}')
        STEPS.forget('lint', 'torch', 'build', 'mmcv', 'packages', 'torchvision', 'triton', 'project')


def forget_changed_packages() -> None:
    """Repeat the steps when packages were changed by hand since the last set-up; a torch of the user's is kept."""
    state = STEPS.stamps / 'state'
    if state.is_file() and state.read_text().split('\n') != STEPS.installed():
        say(f'packages in {VENV.name} were changed by hand since the last set-up: checking them')
        STEPS.forget('state', 'build', 'mmcv', 'packages', 'torchvision', 'triton', 'project')
        if not torch_version():
            STEPS.forget('torch')


def install_mmcv() -> None:
    script = ROOT / 'tools' / 'env' / 'mmcv_wheel.py'
    wheel = STEPS.run(PYTHON, script, mmcv_requirement(), capture=True).strip().split('\n')[-1]
    # pip would keep a wheel of the same version that was compiled against another torch.
    pip_install('--no-deps', '--force-reinstall', wheel)


def install_packages() -> None:
    # Naming the installed torch keeps it as it is and lets pip pin what it depends on.
    pip_install_pinned(*PACKAGES, also=f'torch=={torch_version()}')


def install_torchvision() -> None:
    # mmpretrain imports it without asking for it. It names the one torch that it belongs to, so there is one choice.
    pip_install('-c', requirement_file('constraints'), *TORCH_INDEX_ARGS, f'torch=={torch_version()}', 'torchvision')


def install_triton() -> None:
    # A GPU build of torch has brought its own, and no other belongs to it.
    if not any('triton' in name for name in STEPS.installed()):
        pip_install('-r', requirement_file('triton'))


def install_project() -> None:
    pip_install('--no-deps', '--no-build-isolation', '-e', ROOT)
    STEPS.run(PYTHON, '-c', CHECK)


def set_up_lint() -> str:
    """Virtual environment and ruff; return the key that the next steps build on."""
    version = create_venv()
    repair_interrupted()
    key = digest(version, requirement_file('constraints'), requirement_file('lint'))
    STEPS.step('lint', 'ruff and pre-commit', key, lambda: pip_install_pinned('lint'))
    return key


def set_up() -> None:
    """Run every step that is not done, in the order that compiling mmcv asks for: torch before all."""
    key = set_up_lint()
    forget_changed_packages()
    torch_key = digest(TORCH_SPEC, TORCH_INDEX_ARGS)
    STEPS.step(
        'torch', f'{TORCH_SPEC}, a large download', torch_key, lambda: pip_install(*TORCH_INDEX_ARGS, TORCH_SPEC)
    )
    key = digest(key, requirement_file('build'))
    STEPS.step('build', 'build tools', key, lambda: pip_install_pinned('build'))
    key = digest(key, torch_version(), mmcv_requirement())
    STEPS.step('mmcv', f'{mmcv_requirement()} with its compiled operators', key, install_mmcv)
    key = digest(key, *map(requirement_file, PACKAGES))
    STEPS.step('packages', 'mmdet, mmseg and the rest, a minute or two', key, install_packages)
    key = digest(key, *TORCH_INDEX_ARGS)
    STEPS.step('torchvision', 'the torchvision of this torch', key, install_torchvision)
    key = digest(key, requirement_file('triton'))
    STEPS.step('triton', 'Triton, whose interpreter the tests of the GPU kernels need', key, install_triton)
    key = digest(key, str(ROOT), ROOT / 'setup.py', ROOT / 'pyproject.toml')
    STEPS.step('project', 'mmssmprune in editable mode, and a check of it all', key, install_project)
    state = STEPS.stamps / 'state'
    if not state.is_file():
        say(f'{VENV.name} is ready')
    state.write_text('\n'.join(STEPS.installed()))


def lock_clone() -> None:
    """Let one set-up at a time work on this clone; the lock ends with the process."""
    handle = os.open(ROOT, os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say('another make is setting up this clone: waiting for it')
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        say('this file system has no locks: run only one make at a time')


def main() -> None:
    """Set up what the command line names."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        lock_clone()
        if sys.argv[1:] == ['lint']:
            set_up_lint()
        else:
            set_up()
    except KeyboardInterrupt:
        sys.exit('setup: interrupted; the next make goes on from here.')


if __name__ == '__main__':
    main()
