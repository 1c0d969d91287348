"""Draw what pruning does to images: kept tokens, importance, restored features, dense and pruned predictions.

    python tools/analysis_tools/visualize_tokens.py CONFIG CHECKPOINT IMAGES... --out work_dirs/tokens

The config has a pruned backbone, the checkpoint may be of the dense model. IMAGES are files or folders. They go through
the config's own test pipeline. DIR gets one PNG per image and tokens.html, a page that holds all of them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from mmssmprune._command_line import add_model, keep_ratio, make_parser


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument('images', nargs='+', metavar='IMAGES', help='image files, or folders of them')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/tokens'),
        metavar='DIR',
        help='where pictures and page are written; older ones of the same names are replaced (default: %(default)s)',
    )
    parser.add_argument('--keep-ratio', type=keep_ratio, metavar='R', help="another ratio than the config's")
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of the detections drawn (default: %(default)s)'
    )
    parser.add_argument('--device', help='e.g. cpu or cuda:0 (default: what mmengine finds)')
    return parser.parse_args()


def main() -> None:
    """Parse, run each image, draw, write."""
    args = parse_args()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        from mmssmprune.analysis.results import check_output
        from mmssmprune.analysis.token_pictures import sources
        from mmssmprune.engine import runner_setup

        images = sources.find_images(args.images)
        targets = _targets(images, args.out)
        check_output(args.out)
        cfg = runner_setup.load_config(args.config, args.cfg_options)
        model, checkpoint = sources.load_model(cfg, args.checkpoint, args.device, args.keep_ratio)
        pipeline = sources.test_pipeline(cfg)
        meta = sources.complete_meta(sources.dataset_meta(cfg, checkpoint), model)
    with sentence_errors():
        described = []
        for i, (image, target) in enumerate(zip(images, targets, strict=True), start=1):
            described.append(_draw(model, pipeline, image, target, meta, args.score_thr))
            print(f'{i}/{len(images)} {target}', flush=True)
        page = args.out / 'tokens.html'
        _write_page(page, args, model, described)
    print(f'Written: {page}')


def _targets(images: list[Path], out: Path) -> list[Path]:
    """One PNG per image, numbered where names repeat.

    Raises:
        ValueError: a picture would take the place of an image.
    """
    times: Counter[str] = Counter()
    targets = []
    for image in images:
        times[image.stem] += 1
        number = f'-{times[image.stem]}' if times[image.stem] > 1 else ''
        targets.append(out / f'{image.stem}{number}.tokens.png')
    taken = {image.resolve() for image in images} & {target.resolve() for target in targets}
    if taken:
        raise ValueError(f'--out {out} holds the image {taken.pop().name}, which a picture would replace; give another')
    return targets


def _draw(model: Any, pipeline: Any, image: Path, target: Path, meta: dict, score_thr: float) -> str:
    """Run and draw one image; gives its part of the page."""
    from mmssmprune.analysis.token_pictures import figure, observe, page, sources
    from mmssmprune.checkpoints.writing import write_whole

    data = sources.run_pipeline(pipeline, image)
    seen = observe.observe(model, data['inputs'], data['data_samples'], sources.pads(pipeline))
    png = figure.to_png(figure.draw_observation(seen, image.name, meta, score_thr))
    write_whole(target, png)
    return page.describe(str(image), seen, png)


def _write_page(path: Path, args: argparse.Namespace, model: Any, described: list[str]) -> None:
    from mmssmprune.analysis.results import file_digest
    from mmssmprune.analysis.token_pictures import page
    from mmssmprune.checkpoints.writing import write_whole
    from mmssmprune.models.keep_ratio import get_keep_ratios

    backbone, ratios = get_keep_ratios(model)[0]
    checkpoint = Path(args.checkpoint).expanduser()
    facts = {'config': args.config, 'checkpoint': args.checkpoint}
    if checkpoint.is_file():  # and no address
        facts['SHA-256'] = file_digest(checkpoint)
    facts['keep ratio'] = ', '.join(f'{ratio:.4g}' for ratio in ratios)
    facts.update((f'pruning.{key}', value) for key, value in backbone.pruning.items() if key != 'keep_ratio')
    write_whole(path, page.make_page(f'Tokens of {Path(args.config).stem}', facts, described))


if __name__ == '__main__':
    main()
