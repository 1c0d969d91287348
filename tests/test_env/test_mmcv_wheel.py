"""The cache of compiled mmcv wheels: one per torch, whole or not there at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / 'tools' / 'env' / 'mmcv_wheel.py'
sys.path.insert(0, str(SCRIPT.parent))

import mmcv_wheel  # noqa: E402

REQUIREMENT = 'onedl-mmcv==2.3.6'


def run_script(cache: Path, *args: str, **env: str) -> subprocess.CompletedProcess:
    env = dict(os.environ, MMSSMPRUNE_CACHE=str(cache), **env)
    return subprocess.run([sys.executable, SCRIPT, *args], env=env, capture_output=True, text=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def project(folder: Path, setup: str) -> str:
    """A source tree that pip can build offline."""
    folder.mkdir()
    (folder / 'setup.py').write_text(setup)
    (folder / 'mmcv').mkdir()
    (folder / 'mmcv' / '__init__.py').write_text('')
    return str(folder)


def test_another_torch_is_another_wheel(cache, monkeypatch):
    here = mmcv_wheel.cache_dir(REQUIREMENT)
    assert here.parent == cache
    monkeypatch.setattr(torch, '__version__', '2.12.0+cu130')
    assert mmcv_wheel.cache_dir(REQUIREMENT) != here


def test_cuda_wheels_are_kept_apart(cache, monkeypatch):
    monkeypatch.delenv('FORCE_CUDA', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    here = mmcv_wheel.cache_dir(REQUIREMENT)
    monkeypatch.setenv('FORCE_CUDA', '1')
    assert mmcv_wheel.cache_dir(REQUIREMENT) != here


def test_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv('MMSSMPRUNE_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert mmcv_wheel.cache_dir(REQUIREMENT).parent == tmp_path / 'mmssmprune'


def stored_wheel(folder: Path) -> Path:
    """What `build` leaves: a wheel whose build number is the hash of its content."""
    folder.mkdir(parents=True, mode=0o700)
    for parent in (folder, folder.parent):
        parent.chmod(0o700)
    wheel = folder / 'any.whl'
    wheel.write_bytes(b'a wheel')
    return wheel.rename(wheel.with_name(f'onedl_mmcv-2.3.6-0{mmcv_wheel.digest(wheel)}-cp311-cp311-any.whl'))


def test_cached_wheel_is_taken_without_a_compiler(cache):
    wheel = stored_wheel(mmcv_wheel.cache_dir(REQUIREMENT))
    (wheel.parent / f'{wheel.name}.123.partial').write_bytes(b'')
    done = run_script(cache, REQUIREMENT, CXX='no-such-compiler')
    assert done.stdout.splitlines()[-1] == str(wheel), done.stderr


@pytest.mark.parametrize('damage', ['content', 'no hash'])
def test_a_wheel_that_is_not_what_was_built_is_not_taken(cache, damage):
    wheel = stored_wheel(mmcv_wheel.cache_dir(REQUIREMENT))
    if damage == 'content':
        wheel.write_bytes(b'a whee')
    else:
        wheel.rename(wheel.with_name('onedl_mmcv-2.3.6-cp311-cp311-any.whl'))
    done = run_script(cache, REQUIREMENT, CXX='no-such-compiler')
    assert (done.returncode, done.stdout) == (1, '')
    assert 'mmcv: no C++ compiler' in done.stderr  # it would be built again


@pytest.mark.parametrize('level', [0, 1])
def test_a_cache_that_others_can_write_to_is_refused(cache, level):
    folder = mmcv_wheel.cache_dir(REQUIREMENT)
    stored_wheel(folder)
    wrong = (folder, folder.parent)[level]
    wrong.chmod(0o777)
    done = run_script(cache, REQUIREMENT)
    assert (done.returncode, done.stdout) == (1, '')
    assert f'is not used, because {wrong} can be written by everyone' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_compiler_is_said_in_a_sentence(tmp_path):
    done = run_script(tmp_path, REQUIREMENT, CXX='no-such-compiler')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('mmcv: no C++ compiler: `no-such-compiler` was not found')
    assert list(tmp_path.iterdir()) == []


def test_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(mmcv_wheel, 'precompile_torch_header', lambda folder: [])
    source = project(tmp_path / 'source', 'raise SystemExit("compiler error")')
    with pytest.raises(SystemExit, match='compiler error'):
        mmcv_wheel.build(source, tmp_path / 'target')
    assert not (tmp_path / 'target').exists()


def test_wheel_without_operators_is_refused(tmp_path, monkeypatch):
    """mmcv's build ends well, and without operators, when torch is out of its sight."""
    monkeypatch.setattr(mmcv_wheel, 'precompile_torch_header', lambda folder: [])
    setup = "from setuptools import setup; setup(name='onedl-mmcv', version='2.3.6', packages=['mmcv'])"
    with pytest.raises(SystemExit, match='without its operators'):
        mmcv_wheel.build(project(tmp_path / 'source', setup), tmp_path / 'target')
    assert not (tmp_path / 'target').exists()


def test_wheel_with_operators_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(mmcv_wheel, 'precompile_torch_header', lambda folder: [])
    setup = (
        "from setuptools import Extension, setup; setup(name='onedl-mmcv', version='2.3.6', packages=['mmcv'], "
        "ext_modules=[Extension('mmcv._ext', ['ext.c'])])"
    )
    source = project(tmp_path / 'source', setup)
    Path(source, 'ext.c').write_text('int nothing;\n')
    mmcv_wheel.build(source, tmp_path / 'target')
    (stored,) = (tmp_path / 'target').iterdir()
    assert stored == mmcv_wheel.whole_file(tmp_path / 'target', '*.whl')
    assert stored.name.startswith('onedl_mmcv-2.3.6-0') and stored.name.count('-') == 5
    installing = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--target', tmp_path / 'site', stored]
    done = subprocess.run(installing, capture_output=True, text=True)  # pip takes the hash for a build number
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'site' / 'mmcv').is_dir()


@pytest.mark.parametrize('args', [(), ('onedl-mmcv',)])
def test_usage(tmp_path, args):
    done = run_script(tmp_path, *args)
    assert done.returncode == 1
    assert done.stderr.startswith('usage: ')
