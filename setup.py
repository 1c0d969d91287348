"""Package metadata; the environment of `make` is built by tools/env/bootstrap.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """Lines of requirements/<name>.txt without comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def version() -> str:
    """``__version__`` of the package, read without importing it."""
    text = (ROOT / 'mmssmprune' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)[1]


def readme() -> str:
    """README.md, or nothing while there is none."""
    path = ROOT / 'README.md'
    return path.read_text(encoding='utf-8') if path.is_file() else ''


setup(
    name='mmssmprune',
    version=version(),
    description='Token pruning for vision state space models in MMDetection and MMSegmentation',
    long_description=readme(),
    long_description_content_type='text/markdown',
    author='The mmssmprune maintainers',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['mmssmprune', 'mmssmprune.*']),
    package_data={
        'mmssmprune.ops.scan': ['*.cpp'],
        'mmssmprune.ops.kept_conv': ['*.cpp'],
        'mmssmprune.analysis.comparison': ['published.yml'],
    },
    python_requires='>=3.10',
    # Two families of distributions bring mmengine, mmcv, mmdet and mmseg, and torch comes in many builds: naming one
    # here would put it on top of what a user already has. mmssmprune/_stack.py checks them once models are imported.
    install_requires=requirements('runtime'),
    extras_require={
        'mim': requirements('mminstall'),
        'openmmlab': requirements('openmmlab'),
        'cls': requirements('classification'),
        'export': requirements('export'),
        'tests': requirements('tests'),
        'optional': requirements('optional'),
    },
)
