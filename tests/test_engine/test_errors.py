from __future__ import annotations

import urllib.error

import pytest

from mmssmprune.engine.checkpoint import check_checkpoint_file
from mmssmprune.engine.errors import sentence_errors, to_sentence


def end_of(block, capsys: pytest.CaptureFixture, building: bool = False) -> str:
    with pytest.raises(SystemExit) as end, sentence_errors(building):
        block()
    assert end.value.code == 2
    return capsys.readouterr().err


def test_own_errors_become_one_line(capsys):
    err = end_of(lambda: check_checkpoint_file('none.pth'), capsys)
    assert err == 'error: checkpoint none.pth does not exist\n'


def test_a_wrapped_own_error_loses_the_wrapper(capsys):
    def build():
        try:
            check_checkpoint_file('none.pth')
        except FileNotFoundError as error:  # as older registries do
            raise FileNotFoundError(f'class `PlainMamba` in a/b.py: {error}') from error

    assert end_of(build, capsys) == 'error: checkpoint none.pth does not exist\n'


def test_slips_keep_their_traceback_while_running():
    with pytest.raises(ZeroDivisionError), sentence_errors(building=True):
        _ = 1 / 0
    with pytest.raises(ValueError, match='invalid literal'), sentence_errors():
        int('a')


def test_library_errors_speak_of_the_config_while_building(capsys):
    def build():
        raise KeyError('Foo is not in the registry.\nPlease check')

    assert end_of(build, capsys, building=True) == 'error: Foo is not in the registry. Please check\n'
    with pytest.raises(KeyError), sentence_errors():
        build()


def test_an_error_without_words_keeps_its_traceback():
    with pytest.raises(AssertionError), sentence_errors(building=True):
        raise AssertionError


def test_a_failed_download_tells_the_way_out():
    sentence = to_sentence(urllib.error.URLError('no route'))
    assert 'init_cfg.checkpoint=PATH' in sentence
