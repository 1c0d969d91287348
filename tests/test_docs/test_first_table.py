"""docs/first_table.md step by step: what one command writes is what the next ones read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from commands import commands
from mmengine.config import Config
from pages import REPO, code_blocks
from user_folder import RELEASED

PAGE = (REPO / 'docs/first_table.md').read_text()
COMMANDS = [shlex.split(command)[1:] for code in code_blocks(PAGE, 'bash') for command in commands(code)]


def of(tool: str) -> list[list[str]]:
    return [words[1:] for words in COMMANDS if words[0].endswith(tool)]


def test_every_step_reads_what_an_earlier_one_has_written():
    fetched = re.findall(r'curl -L -o (\S+)', PAGE)
    assert sorted(fetched) == sorted(name for name in RELEASED if name.startswith('downloads/'))
    converted = {words[1]: words[words.index('--config') + 1] for words in of('convert_official.py')}
    assert sorted(words[0] for words in of('convert_official.py')) == sorted(fetched)
    *compared, joined = of('compare.py')
    outs = [words[words.index('--out') + 1] for words in compared]
    assert sorted(joined[: joined.index('--out')]) == sorted(outs)
    for words in compared:
        for model in words[: words.index('--shape')]:
            config, checkpoint = model.split(':')
            family = config.split('-flops')[0].split('_mask')[0].split('_upernet')[0]
            assert converted[checkpoint].startswith(family), model
            assert (REPO / config).is_file()


def test_each_model_is_compared_at_every_level():
    levels: dict[str, list[str]] = {}
    for words in of('compare.py')[:-1]:
        at_ten = 'model.backbone.pruning.flops_reduction=0.1' in words
        for model in words[: words.index('--shape')]:
            config, checkpoint = model.split(':')
            level = re.search(r'-flops(\d+)', config)
            levels.setdefault(checkpoint, []).append('10' if at_ten else level[1] if level else 'dense')
    assert len(levels) == 4
    assert all(sorted(found) == ['10', '20', '30', '40', 'dense'] for found in levels.values())


@pytest.mark.parametrize('words', of('convert_official.py'), ids=lambda words: Path(words[0]).stem)
def test_a_stand_in_converts_into_the_pruned_configs_too(words: list[str]):
    """The backbone that a level of the page builds takes what the dense config took, whole."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope
    from official_files import official_file

    from mmssmprune.checkpoints.keys import compare_state_dict
    from mmssmprune.checkpoints.official import ConversionReport, convert_to_ours

    for level in ('', '-flops30'):
        config = words[words.index('--config') + 1]
        name = config.replace('_mask', f'{level}_mask').replace('_upernet', f'{level}_upernet')
        cfg = Config.fromfile(REPO / name)
        init_default_scope(cfg.default_scope)
        cfg.model.backbone.pop('init_cfg', None)
        if level:  # solving for a target is another test's
            cfg.model.backbone.pruning = dict(layers='default', keep_ratio=0.5)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        done = ConversionReport('a.pth', '0' * 64, 'official to mmssmprune')
        state = convert_to_ours(official_file(RELEASED[words[0]]), done, model)
        assert not done.dropped
        assert not [name for name in done.absent if 'pruner' not in name]
        assert not compare_state_dict(model, state)
        assert all(isinstance(value, torch.Tensor) for value in state.values())
