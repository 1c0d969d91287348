"""Check torch, mmengine and mmcv before the models import them, and mmpretrain where a config asks for it.

setup.py does not require these packages (several distributions bring the same import names), so what is missing or does
not fit together is said here, in a sentence that names the remedy.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

# Half-open version ranges, [from, to). torch 2.4 brought torch.library.custom_op with its autograd and fake rules.
TORCH = ('2.4', None)
MMENGINE = ('0.10.3', '1.0')
MMCV = ('2.0.1', '3.0')
MMPRETRAIN = ('1.0', '2.0')

HOW_TO_GET_MMCV = (
    'install one of requirements/mminstall.txt or requirements/openmmlab.txt compiled against this torch '
    '(`pip install --no-build-isolation --no-cache-dir ...`), or let `make setup` do it'
)


class StackError(RuntimeError):
    """A package that the models stand on is missing or does not fit the others.

    Not an ImportError, which mmengine's ``custom_imports`` would catch and replace with a list of paths.
    """


_torch_may_be_alone = False


def allow_torch_alone() -> None:
    """Where mmengine or mmcv is missing or does not work: let `mmssmprune.models` be imported all the same.

    It then holds the plain backbones alone. The adapter, the neck, mmdet and mmseg need both.
    """
    global _torch_may_be_alone
    _torch_may_be_alone = not all(map(_imports, ('mmengine', 'mmcv', 'mmcv._ext')))


def wants_mmcv() -> bool:
    """Whether mmcv is asked for; without it the plain backbones are all that there is (see `allow_torch_alone`).

    MMSSMPRUNE_WITHOUT_MMCV=1 is for processes that a benchmark starts: importing mmcv takes seconds.
    """
    return not _torch_may_be_alone and os.environ.get('MMSSMPRUNE_WITHOUT_MMCV') != '1'


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def check_stack() -> None:
    """Make sure that torch, mmengine and mmcv with its compiled operators are there and fit together.

    After `allow_torch_alone`, whatever is missing may be.

    Raises:
        StackError: one sentence that says what is wrong and what to install.
    """
    torch = require('torch', TORCH, 'install PyTorch first, in the build that suits your machine')
    if wants_mmcv() or _imports('mmengine'):
        require('mmengine', MMENGINE, 'install onedl-mmengine (requirements/mminstall.txt) or mmengine')
    if wants_mmcv():
        mmcv = require('mmcv', MMCV, HOW_TO_GET_MMCV)
        check_compiled_operators(mmcv, torch)


def require(name: str, versions: tuple[str, str | None], remedy: str) -> ModuleType:
    """Import ``name`` and check its version against the half-open range ``versions``."""
    low, high = versions
    wanted = f'{name} {low} or later' + (f' but older than {high}' if high else '')
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise StackError(f'mmssmprune needs {wanted}, which is not installed: {remedy}.') from None
        raise StackError(f'mmssmprune needs {wanted}, whose import fails here ({error}): {remedy}.') from None
    version = getattr(module, '__version__', 'unknown')
    if not as_tuple(low) <= as_tuple(version) or (high and as_tuple(version) >= as_tuple(high)):
        raise StackError(f'mmssmprune needs {wanted}, but {version} is installed: {remedy}.')
    return module


def check_compiled_operators(mmcv: ModuleType, torch: ModuleType) -> None:
    """Import mmcv._ext, which mmcv itself does not do before the first operator is used."""
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == 'mmcv._ext':
            problem = 'was installed without its compiled operators (there is no mmcv._ext)'
        else:
            problem = f'was compiled against another torch than the installed {torch.__version__} ({error})'
        raise StackError(f'mmcv {mmcv.__version__} {problem}: {HOW_TO_GET_MMCV}.') from None


def check_mmpretrain() -> None:
    """Make sure that mmpretrain, which only classification needs, is there and can be imported.

    Raises:
        StackError: one sentence that says what is wrong and what to install.
    """
    make_torchvision_importable()
    remedy = (
        'classification is built on it; install onedl-mmpretrain (requirements/classification.txt) or mmpretrain, and '
        'the torchvision that belongs to this torch'
    )
    require('mmpretrain', MMPRETRAIN, remedy)


@cache
def make_torchvision_importable() -> Any:
    """Let a torchvision be imported whose compiled operators do not load, as one for CUDA beside a torch for the CPU.

    Its transforms, which are all that mmpretrain uses, are Python. But the import describes two of the operators to
    torch, which refuses to hear of operators that nobody declared; mmengine, which logs torchvision's version at the
    start of every run, then fails as well.

    Returns:
        The declarations, where they are needed: torch takes them back once nobody holds them, and the cache does.
    """
    found = None if 'torchvision' in sys.modules else importlib.util.find_spec('torchvision')
    if found is None or not found.origin:
        return None
    import torch

    try:
        for library in Path(found.origin).parent.glob('_C*.so'):
            torch.ops.load_library(str(library))
    except OSError:
        declared = torch.library.Library('torchvision', 'FRAGMENT')
        for name in ('nms', 'qnms'):
            declared.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        return declared
    return None


def as_tuple(version: str) -> tuple[int, ...]:
    """The release numbers of a version: '2.13.0+cpu' gives (2, 13, 0); without numbers an empty tuple."""
    release = re.match(r'\d+(\.\d+)*', version)
    return tuple(int(number) for number in release[0].split('.')) if release else ()
