"""What `test_training_guards.py` has two processes do: `torch.distributed.run ... diverging_ranks.py RUN BUSY OUT`.

Each trains in RUN, where the loss of the second is NaN once, and in BUSY, which another training holds, and writes what
it was told to OUT/<rank>.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_rank
from test_training_guards import TinyModel, make_runner

from mmssmprune.engine.cpu_processes import join_cpu_processes


def main(run: Path, busy: Path, out: Path) -> None:
    cfg = Config()
    join_cpu_processes(cfg)
    told = []
    for work_dir in (run, busy):
        model = TinyModel({3: float('nan')} if get_rank() == 1 else None)
        try:
            make_runner(work_dir, model, launcher='pytorch', cfg=cfg).train()
        except (RuntimeError, ValueError) as error:
            told.append(f'{type(error).__name__}: {error}')
    (out / f'{get_rank()}.json').write_text(json.dumps(told))


if __name__ == '__main__':
    main(*map(Path, sys.argv[1:]))
