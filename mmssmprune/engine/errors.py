"""Bad input ends a tool with one sentence instead of a traceback."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

BAD_INPUT_EXIT_CODE = 2
# What a wrong config makes mmengine, mmdet and mmseg raise while they build.
BUILD_ERRORS = (ValueError, KeyError, TypeError, AssertionError, ImportError, OSError, SyntaxError)
# What this package raises, with a sentence, wherever it meets bad input.
_OWN_ERRORS = (ValueError, KeyError, TypeError, OSError, RuntimeError)
_PACKAGE_DIR = str(Path(__file__).resolve().parents[1])
# A frame of these files means that something was loaded from the data set, built from the config, or measured.
_LOADING = re.compile(r'torch/utils/data/_utils/(fetch|worker)\.py$|mmengine/dataset/base_dataset\.py$')
_BUILDING_OR_MEASURING = re.compile(r'mmengine/(registry|evaluator)/\w+\.py$')
# Libraries that a config sets to work.
_SUITES = re.compile(r'/(mmengine|mmcv|mmdet|mmseg|mmpretrain|pycocotools)/')
_IN_A_WORKER = re.compile(r'^Caught \w+ in \w+ worker process \d+\.\s+Original Traceback')
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in ', re.M)
# What torch says about labels, from its functions or the suites' losses, and about the machine; and what helps.
_LABELS = re.compile(
    r'Target -?\d+ is out of bounds|index -?\d+ is out of bounds for dimension|Class values must be smaller than num_'
)
_LABELS_ADVICE = (
    'a label of the data is beyond num_classes of the head: compare num_classes, the classes of the data set and '
    'reduce_zero_label'
)
_MACHINE = {
    r'Expected more than 1 value per channel when training': 'BatchNorm wants a larger train_dataloader.batch_size',
    r'out of memory|t allocate memory': 'a smaller batch_size, smaller images or model.backbone.with_cp=True take less',
    r'No CUDA GPUs|no NVIDIA driver|not compiled with CUDA|invalid device ordinal': 'no such GPU is visible here',
    r'DataLoader worker .*(killed|exited)': 'a process that loads data has died: less num_workers take less memory',
    r'PytorchStreamWriter|inline_container': 'the file could not be written: is the disk full?',
}
# What torch says where parts of a model do not fit each other.
_SHAPES = re.compile(
    r'channels, but got|cannot be multiplied|size of tensor a|Sizes of tensors must match|is invalid for input of size'
)
# Where the names of files stand while a data set is read.
_NAMES_OF_FILES = ('annotation_file', 'ann_file', 'filename', 'img_path')


@contextmanager
def sentence_errors(building: bool = False) -> Iterator[None]:
    """Turn errors that tell of bad input into ``error: <sentence>`` on stderr and exit code 2.

    Turned are, always: what this package raises on purpose; what the system says about files, disks and memory; what
    torch says about labels and devices; errors in the code of the suites, which work as the config says, and any that
    come while one of them builds from the config, loads data or measures. All else keeps its traceback: slips in the
    code of this package, and what torch raises when this package calls it.

    Args:
        building: The block reads a config and builds from it, so that library errors of the usual kinds
            (``BUILD_ERRORS``) speak of the config wherever they come from.

    With ``MMSSMPRUNE_DEBUG=1`` in the environment nothing is turned.
    """
    try:
        yield
    except Exception as error:
        bad_input = (building and isinstance(error, BUILD_ERRORS)) or is_bad_input(error)
        sentence = to_sentence(error)
        if not bad_input or not sentence or os.environ.get('MMSSMPRUNE_DEBUG') == '1':
            raise
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(BAD_INPUT_EXIT_CODE)


def is_bad_input(error: BaseException) -> bool:
    """Whether an error tells of what the user gave (config, data, machine), by what raised it and on whose behalf."""
    error = _innermost(error)
    if isinstance(error, (OSError, MemoryError)) or is_raised_on_purpose(error) or _torch_advice(error):
        return True
    places = _places(error)
    if not places or _is_own(places[-1][0]):
        return False
    return _in_a_suite(error) or any(_LOADING.search(file) or _BUILDING_OR_MEASURING.search(file) for file, _ in places)


def _in_a_suite(error: BaseException) -> bool:
    """Whether code of a suite, at work for a config, met what it cannot deal with: by assert, by index, by shape ..."""
    if isinstance(error, RuntimeError) and not _SHAPES.search(str(error)):
        return False
    caller = next((file for file, _ in reversed(_places(error)) if '/torch/' not in file), '')
    kinds = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError)
    return isinstance(error, kinds) and _SUITES.search(caller) is not None


def is_raised_on_purpose(error: BaseException) -> bool:
    """Whether a ``raise`` statement of this package, and not a slip in its code, made the error."""
    error = _innermost(error)
    places = _places(error)
    return bool(places) and isinstance(error, _OWN_ERRORS) and _is_own(places[-1][0]) and _is_raise(*places[-1])


def to_sentence(error: BaseException) -> str:
    """The error's message on one line; empty if it has none."""
    error = _innermost(error)
    if isinstance(error, urllib.error.URLError):
        return (
            f'the pretrained weights could not be fetched ({error}); give a local file with --cfg-options '
            'model.backbone.init_cfg.checkpoint=PATH, or model.backbone.init_cfg=None for random weights'
        )
    text = str(error)
    if _IN_A_WORKER.match(text):
        text = text[list(_FRAME.finditer(text))[-1].start() :]
        text = ' '.join(line for line in text.splitlines() if not line.startswith(' '))
    elif isinstance(error, KeyError) and error.args:  # whose str is the repr of its message
        text = str(error.args[0])
    places = _places(error)
    if not places or not (text.strip() or _in_a_suite(error)):
        return ' '.join(text.split())
    if not _IN_A_WORKER.match(str(error)) and not _says_enough(error, places[-1]):
        text = f'{type(error).__name__}: {error}'
        if _in_a_suite(error):
            file, line = next(place for place in reversed(places) if '/torch/' not in place[0])
            code = '' if str(error) else linecache.getline(file, line).strip()
            where = '/'.join(Path(file).parts[-3:])
            text += f'{code} ({where}, line {line}; MMSSMPRUNE_DEBUG=1 shows the traceback)'
    advice = _torch_advice(error)
    file = _file_in_hand(error)
    stage = 'while data is loaded' if any(_LOADING.search(each) for each, _ in places) else ''
    if stage and not is_raised_on_purpose(error):
        advice = 'tools/dataset_tools/check_data.py CONFIG tells what is wrong with a data set'
    parts = [text, stage and f'({stage})', f'({file})' if file and file not in text else '', advice and f'; {advice}']
    return ' '.join(' '.join(filter(None, parts)).replace(' ;', ';').split())


def _torch_advice(error: BaseException) -> str:
    """What to do about an error of torch about labels or the machine; empty for any other."""
    if not isinstance(error, (RuntimeError, IndexError, ValueError, AssertionError)):
        return ''
    places = _places(error)
    if _LABELS.search(str(error)) and places and not _is_own(places[-1][0]):
        return _LABELS_ADVICE
    return next((advice for pattern, advice in _MACHINE.items() if re.search(pattern, str(error))), '')


def _places(error: BaseException) -> list[tuple[str, int]]:
    """File and line of every frame, outermost first; those in a worker process of a DataLoader where it began there."""
    text = str(error)
    if _IN_A_WORKER.match(text):
        return [(file, int(line)) for file, line in _FRAME.findall(text)]
    return [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]


def _says_enough(error: BaseException, place: tuple[str, int]) -> bool:
    """A sentence that somebody wrote, and what Python says of arguments while a suite builds; a bare key does not."""
    if is_raised_on_purpose(error):
        return True
    if not str(error) or isinstance(error, (AttributeError, RuntimeError)):
        return _torch_advice(error) != ''
    return _is_raise(*place) or not isinstance(error, LookupError)


def _is_own(file: str) -> bool:
    return os.path.realpath(file).startswith(_PACKAGE_DIR + os.sep)


def _is_raise(file: str, line: int) -> bool:
    return linecache.getline(file, line).lstrip().startswith('raise ')


def _file_in_hand(error: BaseException) -> str:
    """The file that the innermost function which knows of one was reading, outside this package."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        found = _file_of(frame)
        if found:
            return found
    return ''


def _file_of(frame: FrameType) -> str:
    if not _SUITES.search(frame.f_code.co_filename):
        return ''
    known: dict[str, Any] = {**frame.f_locals}
    results = known.get('results')
    if isinstance(results, dict):
        known['img_path'] = results.get('img_path')
    return next((known[name] for name in _NAMES_OF_FILES if isinstance(known.get(name), str) and known[name]), '')


def _innermost(error: BaseException) -> BaseException:
    """The error that a registry wrapped, where the wrapper only repeats its message with the class name before it."""
    cause = error.__cause__ or error.__context__
    while cause is not None and str(cause) and str(error).endswith(str(cause)):
        error, cause = cause, cause.__cause__ or cause.__context__
    return error
