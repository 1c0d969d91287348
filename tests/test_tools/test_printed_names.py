"""Names of files and keys are printed as they are: `[red]` and `:x:` mean something to rich, and nothing here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mmssmprune.checkpoints.official.report import ConversionReport

Tool = Callable[..., int]


@pytest.mark.parametrize('name', ['[red]', '[/red]', ':x:'])
def test_folders_are_named_as_they_are(name: str, tool: Tool, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tool('dataset_tools/make_mini.py', '--out', name, '--size', 64, '--train', 1, '--val', 1) == 0
    assert f'{name}/mini_coco: 1 train and 1 val images' in capsys.readouterr().out
    assert tool('evidence.py', '--report-only', '--out', name) == 0
    assert f'Written: {name} (' in capsys.readouterr().out


def test_keys_of_a_checkpoint_are_named_as_they_are(tool: Tool, tmp_path: Path, capsys, monkeypatch):
    import torch
    from official_files import official_file

    content = official_file('vim_tiny')
    content['model']['ema_[/red]:x:'] = torch.zeros(1)
    torch.save(content, tmp_path / '[red].pth')
    monkeypatch.setenv('COLUMNS', '300')
    code = tool('model_converters/convert_official.py', tmp_path / '[red].pth', tmp_path / 'out.pth', '--every-key')
    told = capsys.readouterr()
    assert code == 0, told.err
    assert 'ema_[/red]:x:' in told.out
    assert '[red].pth' in told.out


def test_the_report_of_a_conversion_survives_any_key():
    report = ConversionReport('a', 'b', 'c', kept=['[/red]key'])
    console = Console(markup=False, emoji=False, record=True, width=200)
    console.print(report.tables(every_key=True))
    assert '[/red]key' in console.export_text()
