"""The user's cache: damaged files are made again, folders that others can write to are refused, and the log says so."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scan_operands import NO_CPP

from mmssmprune._cache import cache_folder, digest, make_private, whole_file
from mmssmprune.ops import compile_cpp, kept_conv, multi_scan
from mmssmprune.ops.kept_conv import CONV_BACKENDS
from mmssmprune.ops.kept_conv import cpp as conv_cpp
from mmssmprune.ops.scan import SCAN_BACKENDS, cpp

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason='only root gives files away')
SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'small.cpp'
    path.write_text(SOURCE)
    return path


@NO_CPP
@pytest.mark.parametrize('damage', ['truncated', 'garbage', 'empty', 'another library'])
def test_a_damaged_library_is_compiled_again(damage, cache, source, tmp_path):
    assert compile_cpp.load(source)[0].answer() == 42
    (made,) = cache.iterdir()
    assert made.suffix == '.so' and digest(made) in made.name
    assert cache.stat().st_mode & 0o777 == 0o700 and made.stat().st_mode & 0o777 == 0o700
    whole = made.read_bytes()
    made.unlink()  # this process has it in its memory
    if damage == 'another library':
        other = tmp_path / 'other.cpp'
        other.write_text(SOURCE.replace('42', '13'))
        assert compile_cpp.load(other)[0].answer() == 13
        (planted,) = cache.glob('other-*.so')
        made.write_bytes(planted.read_bytes())
        planted.unlink()
    else:
        made.write_bytes({'truncated': whole[: len(whole) // 3], 'garbage': b'x' * 5000, 'empty': b''}[damage])
    if damage == 'truncated':  # it kills the process that loads it
        code = (
            f'from pathlib import Path; from mmssmprune.ops import compile_cpp; compile_cpp.load(Path({str(source)!r}))'
        )
        assert subprocess.run([sys.executable, '-c', code]).returncode == 0
    assert compile_cpp.load(source)[0].answer() == 42
    assert made.read_bytes() == whole


@NO_CPP
@pytest.mark.parametrize('mode', [0o777, 0o775, 0o1777, 0o722])
def test_a_folder_that_others_can_write_to_is_refused(mode, cache, source):
    cache.mkdir()
    cache.chmod(mode)
    library, reason = compile_cpp.load(source)
    who = 'everyone' if mode & 0o002 else f'group {cache.stat().st_gid}'
    assert library is None
    assert reason.startswith(f'the cache {cache} is not used, because {cache} can be written by {who}: make it ')
    assert list(cache.iterdir()) == []
    cache.chmod(0o755)
    assert compile_cpp.load(source)[1] is None


@ROOT_ONLY
@pytest.mark.parametrize('whose', ['folder', 'parent', 'link', 'target of a link'])
def test_a_folder_of_somebody_else_is_refused(whose, tmp_path, monkeypatch):
    real = tmp_path / 'real'
    (real / 'cache').mkdir(parents=True)
    monkeypatch.setenv('MMSSMPRUNE_CACHE', str(real / 'cache'))
    foreign = {'folder': real / 'cache', 'parent': real}.get(whose)
    if foreign is None:
        link = tmp_path / 'link'
        link.symlink_to(real / 'cache')
        monkeypatch.setenv('MMSSMPRUNE_CACHE', str(link))
        foreign = link if whose == 'link' else real / 'cache'
    os.chown(foreign, 4711, 4711, follow_symlinks=False)
    with pytest.raises(PermissionError, match=f'because {foreign} belongs to user 4711: .* MMSSMPRUNE_CACHE'):
        make_private(cache_folder())


def test_parents_that_others_can_write_to(tmp_path, monkeypatch):
    """They could put another folder in place, but for sticky folders such as /tmp."""
    shared = tmp_path / 'shared'
    shared.mkdir()
    monkeypatch.setenv('MMSSMPRUNE_CACHE', str(shared / 'cache'))
    shared.chmod(0o777)
    with pytest.raises(PermissionError, match=f'because {shared} can be written by everyone'):
        make_private(cache_folder())
    shared.chmod(0o1777)
    make_private(cache_folder())
    assert (shared / 'cache').is_dir()


def test_umask_002_with_a_private_group_is_fine(tmp_path, monkeypatch):
    """What the user's own group may write is not the others'; the cache itself is made for the user alone."""
    grp, pwd = pytest.importorskip('grp'), pytest.importorskip('pwd')
    user = pwd.getpwuid(os.geteuid())
    if grp.getgrgid(user.pw_gid).gr_name != user.pw_name:
        pytest.skip('this user has no group of the same name')
    home = tmp_path / '.cache'
    home.mkdir()
    os.chown(home, -1, user.pw_gid)
    home.chmod(0o775)
    monkeypatch.delenv('MMSSMPRUNE_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(home))
    before = os.umask(0)
    try:
        make_private(cache_folder() / 'wheels')
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o777 for p in (home / 'mmssmprune', home / 'mmssmprune' / 'wheels')] == [0o700] * 2


def test_only_a_file_of_ones_own_with_its_hash_is_taken(cache):
    make_private(cache)
    content = cache / 'content'
    content.write_bytes(b'library')
    named = cache / f'name-{digest(content)}.so'
    named.symlink_to(content)
    assert whole_file(cache, '*.so') is None  # a link
    named.unlink()
    content.rename(named)
    named.chmod(0o666)
    assert whole_file(cache, '*.so') is None  # anybody could change it
    named.chmod(0o600)
    assert whole_file(cache, '*.so') == named
    named.write_bytes(b'librarx')
    assert whole_file(cache, '*.so') is None


def test_the_log_says_why_the_faster_backend_is_out(monkeypatch, caplog):
    monkeypatch.setattr(cpp, '_problem', lambda: 'the cache /x is not used')
    monkeypatch.setattr(conv_cpp, '_problem', lambda: 'the cache /x is not used')
    ones = torch.ones(1, 3, 2)
    caplog.set_level(logging.INFO, logger='mmssmprune')
    for backends in (SCAN_BACKENDS, CONV_BACKENDS):
        backends.announced.clear()
    for _ in range(2):
        multi_scan(ones, ones, -ones[0, :2], ones, ones)
        kept_conv(ones, ones[:, :2].transpose(0, 1)[..., :1], hw_shape=(1, 3), origin=(0, 0))
    text = 'on cpu run in the torch backend, because the faster cpp cannot: the cache /x is not used'
    assert caplog.messages == [f'selective scans {text}', f'convolutions over tokens {text}']
    for backends in (SCAN_BACKENDS, CONV_BACKENDS):
        backends.announced.clear()


def test_the_log_of_a_run_has_it(tmp_path):
    """mmengine's log file: Python's own logging is not shown by its tools."""
    code = (
        'import torch, mmssmprune.models\nfrom mmengine.logging import MMLogger\n'
        f"MMLogger.get_instance('run', log_file={str(tmp_path / 'run.log')!r})\n"
        'from mmssmprune.ops import selective_scan\nones = torch.ones(1, 1, 1)\n'
        'selective_scan(ones, ones, -ones[0], ones, ones)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, 'CXX': 'none'}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sentence = 'selective scans on cpu run in the torch backend, because the faster cpp cannot: no C++ compiler (none)'
    assert Path(tmp_path / 'run.log').read_text().count(sentence) == 1
