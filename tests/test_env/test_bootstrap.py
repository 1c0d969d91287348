"""The set-up: steps run once, go on after a kill, touch no foreign environment and refuse an unfit Python."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENV_TOOLS = ROOT / 'tools' / 'env'
sys.path.insert(0, str(ENV_TOOLS))

import setup_steps  # noqa: E402


@pytest.fixture
def steps(tmp_path):
    steps = setup_steps.Steps(tmp_path)
    steps.stamps.mkdir()
    (tmp_path / 'lib' / 'python3.11' / 'site-packages').mkdir(parents=True)
    return steps


def distribution(site: Path, name: str, record: bool = True) -> Path:
    """A package of one file and its dist-info."""
    (site / name).mkdir()
    (site / name / '__init__.py').write_text('')
    info = site / f'{name}-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('')
    if record:
        (info / 'RECORD').write_text(
            f'{name}/__init__.py,,\n{name}/__pycache__/__init__.cpython-311.pyc,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n'
        )
    return info


class TestStep:
    def test_runs_once_per_key(self, steps):
        done = []
        for key in ('a', 'a', 'b', 'b', 'a'):
            steps.step('torch', 'about', key, lambda key=key: done.append(key))
        assert done == ['a', 'b', 'a']

    def test_runs_again_after_a_failure(self, steps):
        with pytest.raises(SystemExit):
            steps.step('torch', 'about', 'a', lambda: sys.exit('no network'))
        assert steps.interrupted()
        done = []
        steps.step('torch', 'about', 'a', lambda: done.append('a'))
        assert done == ['a']
        assert not steps.interrupted()

    def test_failure_under_a_new_key_does_not_leave_the_old_stamp_valid(self, steps):
        done = []
        steps.step('torch', 'about', 'a', lambda: done.append(1))
        with pytest.raises(SystemExit):
            steps.step('torch', 'about', 'b', lambda: sys.exit('killed half-way'))
        steps.step('torch', 'about', 'a', lambda: done.append(2))
        assert done == [1, 2]

    def test_forget(self, steps):
        done = []
        steps.step('torch', 'about', 'a', lambda: done.append(1))
        steps.forget('torch', 'never run')
        steps.step('torch', 'about', 'a', lambda: done.append(2))
        assert done == [1, 2]

    def test_key_follows_file_contents(self, tmp_path):
        file = tmp_path / 'pins.txt'
        file.write_text('numpy==2.2.6')
        before = setup_steps.digest('3.11', file)
        file.write_text('numpy==2.3.0')
        assert setup_steps.digest('3.11', file) != before
        assert setup_steps.digest('ab', 'c') != setup_steps.digest('a', 'bc')


class TestRun:
    def test_failure_shows_why_and_ends(self, steps, capsys):
        with pytest.raises(SystemExit, match='failed, see above'):
            steps.run(sys.executable, '-c', 'import sys; print("no space left"); sys.exit(3)')
        assert 'no space left' in capsys.readouterr().err

    def test_capture(self, steps):
        assert steps.run(sys.executable, '-c', 'print("path")', capture=True) == 'path\n'

    def test_long_commands_show_progress(self, steps, capsys, monkeypatch):
        monkeypatch.setattr(setup_steps, 'HEARTBEAT', 0.5)
        steps.run(sys.executable, '-c', 'import time; print("Downloading torch", flush=True); time.sleep(1.2)')
        assert 'Downloading torch' in capsys.readouterr().err

    def test_interrupt_ends_the_command_and_its_children(self, steps, monkeypatch, tmp_path):
        """Ctrl-C has to end pip and the compilers that it started."""
        code = (
            'import subprocess, sys, pathlib, time\n'
            'child = subprocess.Popen(["sleep", "60"])\n'
            f'pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))\n'
            'time.sleep(60)\n'
        )

        def interrupted(process):
            while not (tmp_path / 'pid').exists() or not (tmp_path / 'pid').read_text():
                time.sleep(0.05)
            raise KeyboardInterrupt

        monkeypatch.setattr(steps, 'wait', interrupted)
        with pytest.raises(KeyboardInterrupt):
            steps.run(sys.executable, '-c', code)
        assert is_gone(int((tmp_path / 'pid').read_text()))


def is_gone(pid: int) -> bool:
    """Whether a process ends within five seconds (a zombie that nobody reaps has ended too)."""
    for _ in range(100):
        state = subprocess.run(['ps', '-o', 'state=', '-p', str(pid)], capture_output=True, text=True).stdout.strip()
        if state in ('', 'Z'):
            return True
        time.sleep(0.05)
    return False


class TestTornPackages:
    def test_only_incomplete_ones_are_removed(self, steps):
        site = steps.site_packages()
        distribution(site, 'whole')
        distribution(site, 'unrecorded', record=False)
        distribution(site, 'halved')
        (site / 'halved' / '__init__.py').unlink()
        (site / '~umpy').mkdir()
        assert sorted(steps.remove_torn_packages()) == ['halved-1.0', 'unrecorded-1.0']
        assert steps.installed() == ['whole-1.0']
        assert not (site / '~umpy').exists()


class TestFindPython:
    @staticmethod
    def fake_python(folder: Path, name: str, version: str) -> None:
        script = folder / name
        script.write_text(f'#!/bin/sh\necho {version}\n')
        script.chmod(0o755)

    def find(self, folder: Path, *names: str) -> subprocess.CompletedProcess:
        env = {'PATH': str(folder)}
        shell = shutil.which('sh')
        return subprocess.run([shell, ENV_TOOLS / 'find_python.sh', *names], env=env, capture_output=True, text=True)

    def test_first_that_fits(self, tmp_path):
        self.fake_python(tmp_path, 'python3', '3.15')
        self.fake_python(tmp_path, 'python3.11', '3.11')
        self.fake_python(tmp_path, 'python3.10', '3.10')
        assert self.find(tmp_path, 'python3', 'python3.12', 'python3.11', 'python3.10').stdout == 'python3.11\n'

    @pytest.mark.parametrize('version', ['2.7', '3.9', '3.15', '3.1', '3.100'])
    def test_refusal_in_one_sentence(self, tmp_path, version):
        self.fake_python(tmp_path, 'python3', version)
        done = self.find(tmp_path, 'python3', 'python3.12')
        assert done.returncode == 1
        assert done.stdout == ''
        assert len(done.stderr.splitlines()) == 1
        assert f'needs Python 3.10 to 3.14 (python3 is {version}, python3.12 is missing)' in done.stderr

    def test_this_python_fits(self, tmp_path):
        assert self.find(tmp_path, sys.executable).stdout == f'{sys.executable}\n'


def test_foreign_environment_is_refused_untouched(tmp_path):
    venv = tmp_path / 'mine'
    (venv / 'bin').mkdir(parents=True)
    (venv / 'pyvenv.cfg').write_text('home = /usr/bin\n')
    env = dict(os.environ, VENV=str(venv))
    done = subprocess.run([sys.executable, ENV_TOOLS / 'bootstrap.py'], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'was not made by this Makefile' in done.stderr.splitlines()[-1]
    assert sorted(path.name for path in venv.rglob('*')) == ['bin', 'pyvenv.cfg']


@pytest.mark.parametrize(('fails', 'called'), [('lint', ['lint']), ('test', ['lint', 'test']), ('', ['lint', 'test'])])
def test_ci_run_fails_with_what_it_runs(tmp_path, fails, called):
    make = tmp_path / 'make'
    make.write_text(f'#!/bin/sh\necho "$1"\n[ "$1" != "{fails}" ]\n')
    make.chmod(0o755)
    env = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}')
    done = subprocess.run(['bash', ROOT / '.ci' / 'run'], env=env, capture_output=True, text=True, cwd='/')
    assert (done.returncode != 0) == bool(fails)
    assert done.stdout.split() == called
