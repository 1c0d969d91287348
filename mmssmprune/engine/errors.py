"""Bad input ends a tool with one sentence instead of a traceback."""

from __future__ import annotations

import linecache
import os
import sys
import traceback
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BAD_INPUT_EXIT_CODE = 2
# What a wrong config makes mmengine, mmdet and mmseg raise while they build.
BUILD_ERRORS = (ValueError, KeyError, TypeError, AssertionError, ImportError, OSError, SyntaxError)
# What this package raises, with a sentence, wherever it meets bad input.
_OWN_ERRORS = (ValueError, KeyError, TypeError, OSError, RuntimeError)
_PACKAGE_DIR = str(Path(__file__).resolve().parents[1])


@contextmanager
def sentence_errors(building: bool = False) -> Iterator[None]:
    """Turn errors that tell of bad input into ``error: <sentence>`` on stderr and exit code 2.

    Args:
        building: The block reads a config and builds from it, so that library errors of the usual kinds
            (``BUILD_ERRORS``) speak of the config too. Otherwise only errors raised on purpose by this package are
            turned, and a failed download of weights; everything else keeps its traceback.

    With ``MMSSMPRUNE_DEBUG=1`` in the environment nothing is turned.
    """
    try:
        yield
    except Exception as error:
        bad_input = is_raised_on_purpose(error) or isinstance(error, urllib.error.URLError)
        bad_input = bad_input or (building and isinstance(error, BUILD_ERRORS))
        sentence = to_sentence(error)
        if not bad_input or not sentence or os.environ.get('MMSSMPRUNE_DEBUG') == '1':
            raise
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(BAD_INPUT_EXIT_CODE)


def is_raised_on_purpose(error: BaseException) -> bool:
    """Whether a ``raise`` statement of this package, and not a slip in its code, made the error."""
    error = _innermost(error)
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(error, _OWN_ERRORS):
        return False
    last = frames[-1]
    inside = os.path.realpath(last.filename).startswith(_PACKAGE_DIR + os.sep)
    return inside and linecache.getline(last.filename, last.lineno or 0).lstrip().startswith('raise ')


def to_sentence(error: BaseException) -> str:
    """The error's message on one line; empty if it has none."""
    error = _innermost(error)
    if isinstance(error, urllib.error.URLError):
        return (
            f'the pretrained weights could not be fetched ({error}); give a local file with --cfg-options '
            'model.backbone.init_cfg.checkpoint=PATH, or model.backbone.init_cfg=None for random weights'
        )
    # str(KeyError) is the repr of its message; OSError and SyntaxError carry theirs in several arguments.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(message).split())


def _innermost(error: BaseException) -> BaseException:
    """The error that a registry wrapped, where the wrapper only repeats its message with the class name before it."""
    cause = error.__cause__ or error.__context__
    while cause is not None and str(cause) and str(error).endswith(str(cause)):
        error, cause = cause, cause.__cause__ or cause.__context__
    return error
