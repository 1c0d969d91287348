from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.utils import ManagerMixin
from tiny_runs import REPO, make_det_data, make_seg_data


@pytest.fixture(scope='session')
def seg_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seg_data(tmp_path_factory.mktemp('seg_data'))


@pytest.fixture(scope='session')
def det_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_det_data(tmp_path_factory.mktemp('det_data'))


def forget_earlier_runs(kind: type = ManagerMixin) -> None:
    """Drop mmengine's global loggers, visualizers and message hubs, as a new process would."""
    for subclass in kind.__subclasses__():
        subclass._instance_dict.clear()
        forget_earlier_runs(subclass)


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
