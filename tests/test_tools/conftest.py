from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine_state import forget_earlier_runs
from tiny_runs import REPO, make_det_data, make_seg_data


@pytest.fixture(scope='session')
def seg_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seg_data(tmp_path_factory.mktemp('seg_data'))


@pytest.fixture(scope='session')
def det_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_det_data(tmp_path_factory.mktemp('det_data'))


@pytest.fixture(scope='session')
def tool() -> Callable[..., int]:
    """Run a tool's command line in this process (importing mmdet and mmseg anew takes long); gives its exit code."""

    def run(name: str, *args: object) -> int:
        forget_earlier_runs()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [name, *map(str, args)])
            try:
                runpy.run_path(str(REPO / 'tools' / name), run_name='__main__')
            except SystemExit as end:
                return int(end.code or 0)
        return 0

    return run
