"""The numbers in READMEs, metafiles and model-index.yml are those that the configs give today.

test_all_configs.py solves the plans that are targets, some of them in its slow tests; here they are taken from the
metafile, which saves the time.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml
from config_files import CONFIGS, PLAIN_MAMBA, VIM, VMAMBA, is_quick, listed, metafile, with_listed_plan

from mmssmprune.analysis import model_zoo
from mmssmprune.analysis.comparison.entries import find_entries
from mmssmprune.analysis.cost.model_cost import build_without_weights

FAMILIES = [PLAIN_MAMBA, VIM, VMAMBA]
ZOO = [path for family in FAMILIES for path in model_zoo.zoo_configs(family)]
# Counting takes seconds: dense and one target of each kind, and peers where the head is small.
QUICK = [p for p in ZOO if is_quick(p.stem) and ('upernet' in p.stem or not re.search('-(evit|merge|top70)', p.stem))]


@pytest.mark.parametrize(
    'path', [pytest.param(p, id=p.stem, marks=() if p in QUICK else pytest.mark.slow) for p in ZOO]
)
def test_numbers_have_not_drifted(path: Path):
    if 'in1k' in path.stem:
        pytest.importorskip('mmpretrain')
    entry, model = find_entries([str(path)])[0], listed(path)
    cfg = copy.deepcopy(entry.cfg)
    if entry.pruning:
        cfg.model.backbone.pruning = with_listed_plan(entry.pruning, path)
    cfg.model.backbone.init_cfg = None
    counted = model_zoo.zoo_entry(entry, build_without_weights(cfg))
    assert model_zoo.metafile_model(counted) == model
    readme = (path.parent / 'README.md').read_text(encoding='utf-8')
    assert model_zoo.readme_row(counted) in readme.splitlines()


@pytest.mark.parametrize('family', FAMILIES, ids=lambda path: path.name)
def test_every_config_is_listed_once_in_openmmlab_format(family: Path):
    content = metafile(family)
    (collection,) = content['Collections']
    names = [model['Name'] for model in content['Models']]
    assert names == [path.stem for path in model_zoo.zoo_configs(family)]
    for model in content['Models']:
        assert model['In Collection'] == collection['Name']
        assert (CONFIGS.parent / model['Config']).is_file()
        assert all('Metrics' in result and not result['Metrics'] for result in model['Results'])
    assert (CONFIGS.parent / collection['README']).is_file()


def test_the_index_names_every_metafile():
    index = (CONFIGS.parent / 'model-index.yml').read_text(encoding='utf-8')
    assert index == model_zoo.model_index([family.name for family in FAMILIES])
    assert all((CONFIGS.parent / name).is_file() for name in yaml.safe_load(index)['Import'])


def test_tables_go_between_their_marks_only():
    text = f'before\n{model_zoo.BEGIN}\nold\n{model_zoo.END}\nafter'
    new = f'{model_zoo.BEGIN}\nnew\n{model_zoo.END}'
    assert model_zoo.put_tables_into(text, new) == f'before\n{new}\nafter'
    with pytest.raises(ValueError, match='one place for its tables'):
        model_zoo.put_tables_into('before', new)
