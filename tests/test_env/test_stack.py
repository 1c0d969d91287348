"""A missing or unfit torch, mmengine or mmcv is named in one sentence, before anything else fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmssmprune._stack import as_tuple, check_stack

CHECK = 'from mmssmprune._stack import check_stack; check_stack()'


def python(code: str, first_on_path: Path | None = None) -> subprocess.CompletedProcess:
    env = dict(os.environ)
    if first_on_path is not None:
        env['PYTHONPATH'] = os.pathsep.join([str(first_on_path), *filter(None, [env.get('PYTHONPATH')])])
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)


def last_line(code: str, first_on_path: Path | None = None) -> str:
    done = python(code, first_on_path)
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def fake(tmp_path):
    """Write packages that hold a version and nothing else; they stand before the installed ones."""

    def write(**versions: str) -> Path:
        for name, version in versions.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / '__init__.py').write_text(f'__version__ = {version!r}\n')
        return tmp_path

    return write


def test_installed_stack_is_accepted():
    check_stack()


@pytest.mark.parametrize('mmcv', ['2.0.1', '2.1.0', '2.3.6'])
def test_versions_of_both_families_are_accepted(fake, mmcv):
    folder = fake(torch='2.13.0+cpu', mmengine='0.10.7', mmcv=mmcv)
    (folder / 'mmcv' / '_ext.py').write_text('')
    done = python(CHECK, folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', ['torch', 'mmengine', 'mmcv'])
def test_missing_package_is_named(fake, name):
    fakes = fake(torch='2.13.0', mmengine='0.10.12', mmcv='2.3.6')
    line = last_line(f'import sys; sys.modules[{name!r}] = None\n{CHECK}', fakes)
    assert f'mmssmprune needs {name} ' in line
    assert 'which is not installed: ' in line


@pytest.mark.parametrize(
    ('name', 'version', 'wanted'),
    [
        ('torch', '2.3.1+cu121', 'torch 2.4 or later,'),
        ('mmengine', '0.7.4', 'mmengine 0.10.3 or later but older than 1.0,'),
        ('mmcv', '1.7.0', 'mmcv 2.0.1 or later but older than 3.0,'),
        ('mmcv', '2.0.0', 'mmcv 2.0.1 or later but older than 3.0,'),
        ('mmcv', '3.0.0', 'mmcv 2.0.1 or later but older than 3.0,'),
    ],
)
def test_version_out_of_range(fake, name, version, wanted):
    line = last_line(CHECK, fake(**{'torch': '2.13.0', 'mmengine': '0.10.12', 'mmcv': '2.3.6', name: version}))
    assert f'mmssmprune needs {wanted} but {version} is installed: ' in line


def test_mmcv_without_operators(fake):
    line = last_line(CHECK, fake(torch='2.13.0', mmengine='0.10.12', mmcv='2.1.0'))
    assert 'mmcv 2.1.0 was installed without its compiled operators' in line
    assert 'requirements/mminstall.txt' in line
    assert 'make setup' in line


def test_mmcv_of_another_torch(fake):
    folder = fake(torch='2.13.0', mmengine='0.10.12', mmcv='2.3.6')
    (folder / 'mmcv' / '_ext.py').write_text("raise ImportError('_ext.so: undefined symbol: _ZN3c1021throwNullE')")
    line = last_line(CHECK, folder)
    assert 'mmcv 2.3.6 was compiled against another torch than the installed 2.13.0' in line
    assert 'undefined symbol' in line


def test_sentence_comes_first_and_survives_a_config(fake, tmp_path):
    """mmcv's own failures come later; mmengine turns an ImportError of custom_imports into a list of paths."""
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['mmssmprune.models'], allow_failed_imports=False)\n")
    code = f'from mmengine.config import Config; Config.fromfile({str(config)!r})'
    assert 'mmcv 2.1.0 was installed without its compiled operators' in last_line(code, fake(mmcv='2.1.0'))


def test_import_needs_nothing_heavy():
    done = python("import sys, mmssmprune; print({'torch', 'numpy', 'mmengine', 'mmcv'} & set(sys.modules))")
    assert done.stdout.strip() == 'set()', done.stderr


FAKE_TORCHVISION = """
import torch
__version__ = '0.28.0+cu130'
for name in ('nms', 'qnms'):
    torch.library.register_fake(f'torchvision::{name}')(lambda dets, scores, iou_threshold: dets)
"""


@pytest.mark.parametrize('library', ['_C.so', '_C_stable.so'])
def test_torchvision_for_another_device_can_be_imported(tmp_path, library):
    """As torchvision does, the import describes operators that its compiled library, which does not load, declares."""
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '__init__.py').write_text(FAKE_TORCHVISION)
    (tmp_path / 'torchvision' / library).write_bytes(b'needs libtorch_cuda.so')
    assert 'torchvision::nms does not exist' in last_line('import torchvision', tmp_path)
    make_importable = 'from mmssmprune._stack import make_torchvision_importable as make; make(); make()'
    done = python(f'{make_importable}; import torchvision; print(torchvision.__version__)', tmp_path)
    assert done.stdout.strip() == '0.28.0+cu130', done.stderr


def test_missing_mmpretrain_is_named_where_it_is_asked_for():
    hide = "import sys; sys.modules['mmpretrain'] = None\n"
    line = last_line(f'{hide}from mmssmprune._stack import check_mmpretrain; check_mmpretrain()')
    assert 'mmssmprune needs mmpretrain 1.0 or later but older than 2.0, which is not installed: ' in line


def test_ops_need_torch_only():
    hide = "import sys\nfor name in ('mmengine', 'mmcv', 'mmdet', 'mmseg'): sys.modules[name] = None\n"
    done = python(hide + 'import mmssmprune.ops; print(mmssmprune.ops.selective_scan.__name__)')
    assert done.stdout.strip() == 'selective_scan', done.stderr


@pytest.mark.parametrize(
    ('version', 'numbers'),
    [('2.13.0+cpu', (2, 13, 0)), ('2.4.0a0', (2, 4, 0)), ('0.10.7', (0, 10, 7)), ('unknown', ())],
)
def test_as_tuple(version, numbers):
    assert as_tuple(version) == numbers
