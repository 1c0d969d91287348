"""The pins, the package metadata and the house rules agree with each other."""

import re
import runpy
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmssmprune

ROOT = Path(__file__).parents[2]
PYTHONS = ('3.10', '3.11', '3.12', '3.13', '3.14')
OPENMMLAB = {'torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'mmpretrain'}
OPENMMLAB |= {f'onedl-{name}' for name in ('mmengine', 'mmcv', 'mmdetection', 'mmsegmentation', 'mmpretrain')}


def read(name: str) -> list[Requirement]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith('#')]


def pins(python: str) -> dict[str, str]:
    """Name to version in constraints.txt, as one Python sees it."""
    env = {'python_version': python, 'platform_system': 'Linux'}
    found = [r for r in read('constraints') if r.marker is None or r.marker.evaluate(env)]
    names = [canonicalize_name(r.name) for r in found]
    assert len(names) == len(set(names)), 'a package is pinned twice'
    return {name: next(iter(r.specifier)).version for name, r in zip(names, found, strict=True)}


@pytest.mark.parametrize('python', PYTHONS)
@pytest.mark.parametrize('name', ['runtime', 'export', 'tests', 'lint', 'build'])
def test_every_requirement_has_a_pin_within_its_bounds(name, python):
    pinned = pins(python)
    for requirement in read(name):
        if requirement.name != 'pip':  # a floor, not a pin: any later pip will do
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_pins_are_exact_and_pull_no_torch():
    for requirement in [*read('constraints'), *read('mminstall'), *read('classification'), *read('triton')]:
        assert [s.operator for s in requirement.specifier] == ['=='], requirement
    names = {canonicalize_name(r.name) for r in read('constraints')}
    assert not names & OPENMMLAB
    assert not [name for name in names if name.startswith('nvidia') or name == 'triton']


def test_the_triton_of_the_tests_is_one_that_is_supported():
    (pinned,) = read('triton')
    (supported,) = (r for r in read('optional') if r.name == 'triton')
    assert supported.specifier.contains(next(iter(pinned.specifier)).version)


@pytest.mark.skipif(not (Path(sys.prefix) / '.setup').is_dir(), reason='an environment that make did not set up')
def test_the_environment_is_what_the_pins_say():
    """Whatever pip resolved beyond the named packages is pinned as well."""
    pinned = pins(f'{sys.version_info.major}.{sys.version_info.minor}')
    files = ('mminstall', 'classification', 'runtime', 'export', 'tests')
    names = {'torch', 'torchvision', *(canonicalize_name(r.name) for file in files for r in read(file))}
    versions = closure(names)
    cuda = {name for name in versions if name.startswith(('nvidia-', 'cuda-')) or name == 'triton'}  # torch's own
    for name in versions.keys() - OPENMMLAB - cuda:
        assert versions[name] == pinned.get(name), name
    for requirement in [*read('mminstall'), *read('classification')]:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def closure(names: set[str]) -> dict[str, str]:
    """Installed version of ``names`` and of everything that they require."""
    versions: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in versions:
            continue
        versions[name] = metadata.version(name)
        requires = [Requirement(text) for text in metadata.requires(name) or []]
        todo += [canonicalize_name(r.name) for r in requires if r.marker is None or r.marker.evaluate({'extra': ''})]
    return versions


def test_package_metadata(monkeypatch):
    """A user's own torch and mmcv must not be overwritten by `pip install -e .`."""
    package = {}
    monkeypatch.setattr('setuptools.setup', lambda **arguments: package.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    assert package['version'] == mmssmprune.__version__
    assert {'mmssmprune', 'mmssmprune.ops'} <= set(package['packages'])
    assert not [name for name in package['packages'] if name.split('.')[0] != 'mmssmprune']
    required = {canonicalize_name(Requirement(text).name) for text in package['install_requires']}
    assert required == {canonicalize_name(r.name) for r in read('runtime')}
    assert not required & OPENMMLAB
    assert package['extras_require'].keys() == {'mim', 'openmmlab', 'cls', 'export', 'tests', 'optional'}


def test_ruff_of_pre_commit_is_the_pinned_one():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    assert {tuple(hook['additional_dependencies']) for hook in hooks} == {(f'ruff=={pins("3.11")["ruff"]}',)}


def test_citation_names_this_version_and_three_papers():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mmssmprune.__version__
    arxiv = [reference['identifiers'][0]['value'] for reference in citation['references']]
    assert arxiv == ['arXiv:2409.18962', 'arXiv:2403.17695', 'arXiv:2401.09417']


def test_torch_is_installed_alone_at_its_pin():
    makefile = (ROOT / 'Makefile').read_text()
    assert re.search(r'^TORCH_SPEC \?= torch==\d+\.\d+\.\d+$', makefile, re.MULTILINE)
