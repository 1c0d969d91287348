"""How many cells the hidden state remembers, layer by layer, what alignment changes, and how far pruning leads away.

    python tools/analysis_tools/state_memory.py CONFIG CHECKPOINT --images 20

The config has a pruned backbone, the checkpoint may be of the dense model. The test images are used. Alignment matters
where the memory is about as long as the gaps between kept tokens, or longer where kept tokens stand for the pruned
ones (scan_fill); see docs/findings.md.
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from mmssmprune._command_line import add_model, make_parser, positive


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument('--images', type=positive, default=20, help='test images of one size (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        import torch
        from mmengine.registry import DATASETS

        from mmssmprune.analysis.state_memory import measure_state_memory
        from mmssmprune.datasets import check_data_root
        from mmssmprune.engine import runner_setup
        from mmssmprune.engine.loading import build_model

        cfg = runner_setup.load_config(args.config, args.cfg_options)
        check_data_root(cfg, ('test_dataloader',))
        model = build_model(cfg, args.checkpoint)
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    with sentence_errors():
        samples = [dataset[i] for i in range(min(args.images, len(dataset)))]
        batch = {key: [sample[key] for sample in samples] for key in ('inputs', 'data_samples')}
        with torch.no_grad():
            images = model.data_preprocessor(batch, False)['inputs']
        Console().print(_table(measure_state_memory(model.backbone, images)))


def _table(layers: list) -> Table:
    table = Table(
        'layer', 'memory in cells: 10 %', 'median', '90 %', 'mean gap', 'change by alignment (%)', 'from dense (%)'
    )
    for found in layers:
        memory = [f'{cells:.1f}' for cells in found.memory]
        change = '-' if found.change is None else f'{100 * found.change:.1f}'
        table.add_row(str(found.layer), *memory, f'{found.mean_gap:.2f}', change, f'{100 * found.distance:.1f}')
    return table


if __name__ == '__main__':
    main()
