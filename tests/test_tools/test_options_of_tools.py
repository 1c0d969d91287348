"""A key that nothing reads is refused by every tool that takes --cfg-options, before it does anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import REPO

CONFIG = REPO / 'configs/plain_mamba/plain-mamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py'
TOOLS = {
    'train.py': (CONFIG,),
    'test.py': (CONFIG, 'none.pth'),
    'compare.py': (CONFIG,),
    'search_plan.py': (CONFIG, 'none.pth'),
    'analysis_tools/get_flops.py': (CONFIG,),
    'deployment/export.py': (CONFIG, '--format', 'torch', '--shape', '64', '64', '--out', 'out.pt2'),
    'analysis_tools/visualize_tokens.py': (CONFIG, 'none.pth', REPO / 'docs/images/visualize_tokens.png'),
    'analysis_tools/state_memory.py': (CONFIG, 'none.pth'),
}
TAKES_OPTIONS = re.compile(r"add_model\(|add_cfg_options\(|'--cfg-options',")


def test_every_tool_that_takes_options_is_here():
    takers = [path for path in (REPO / 'tools').rglob('*.py') if TAKES_OPTIONS.search(path.read_text())]
    assert {str(path.relative_to(REPO / 'tools')) for path in takers} == set(TOOLS)


@pytest.mark.parametrize('name', TOOLS)
def test_a_mistyped_key_is_refused_with_the_nearest(
    name: str, tool: Callable[..., int], tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    assert tool(name, *TOOLS[name], '--cfg-options', 'modle.backbone.pruning.keep_ratio=0.5') == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1
    assert 'modle' in errors[0]
    assert 'did you mean model?' in errors[0]
    assert list(tmp_path.iterdir()) == []
