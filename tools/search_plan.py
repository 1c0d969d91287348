"""Search the cheapest pruning of a checkpoint that loses no more than is allowed; nothing is trained.

    python tools/search_plan.py CONFIG CHECKPOINT --max-drop 0.5

Tries layers, levels, reductions and restorations on a part of the test set, and the best on all of it. What was
measured is kept in --out and not measured again. Works for dense checkpoints and for those of elastic training. --out
gets the trace (search.md, .json, .png) and the winner as a config, which trains and tests. docs/search.md says more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssmprune._command_line import add_model, add_shape, command_line, make_console, make_parser, positive


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument('--max-drop', type=points, default=0.5, help='percent points to lose (default: %(default)s)')
    parser.add_argument('--metric', help="title of the metric, as 'mIoU' or 'segm mAP' (default: the task's first)")
    parser.add_argument('--images', type=positive, default=200, help='images to compare on (default: %(default)s)')
    reductions = ['merge_neighbours', 'prune_merge']
    parser.add_argument('--reductions', nargs='+', default=reductions, help=f'default: {" ".join(reductions)}')
    parser.add_argument('--restorations', nargs='+', default=['flow', 'hold'], help='default: flow hold')
    add_shape(parser, 'that of the first test image', 'image size in pixels at which FLOPs are counted')
    parser.add_argument('--out', type=Path, help='folder (default: work_dirs/search/<config name>)')
    return parser.parse_args()


def points(text: str) -> float:
    """A number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f'expected percent points from 0 to 100, got {text}')
    return value


def main() -> None:
    args = parse_args()
    out = args.out or Path('work_dirs/search') / Path(args.config).stem
    console = make_console()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.engine.errors import sentence_errors

    with sentence_errors(building=True):
        from mmssmprune.analysis.escape import one_line
        from mmssmprune.analysis.plan_search import report
        from mmssmprune.analysis.plan_search.search import Trial, search
        from mmssmprune.analysis.results import check_output

        check_output(out)
        tester, arms = prepare(args, out)
    with sentence_errors():

        def tell(trial: Trial) -> None:
            line = f'{trial.arm}: {100 * trial.saved:.1f} % saved, {trial.accuracy:.2f} on {trial.images} images'
            print(one_line(f'{line}, {trial.drop:+.2f} lost: {"allowed" if trial.allowed else "too much"}'), flush=True)

        trials = search(tester, arms, args.max_drop, args.images, tell)
    said = {'metric': tester.metric, 'max drop': args.max_drop, 'command': command_line()}
    said |= {'FLOPs': f'backbone, {tester.shape[0]}x{tester.shape[1]} pixels', 'checkpoint': Path(args.checkpoint).name}
    with sentence_errors(building=True):
        replaces = 'pruning' in tester.cfg.model.backbone
        names = report.write_search(trials, out, Path(args.config), said, replaces)
    console.print(report.summary(trials, tester.metric), markup=False, highlight=False)
    console.print(f'Written to {out}: {", ".join(names)}', markup=False, highlight=False)


def prepare(args: argparse.Namespace, out: Path) -> tuple:
    """The model under test, and the ways to prune it."""
    from mmssmprune.analysis.plan_search.search import candidate_layers, make_arms
    from mmssmprune.analysis.plan_search.tester import PlanTester
    from mmssmprune.analysis.tasks import task_of
    from mmssmprune.engine.runner_setup import load_config
    from mmssmprune.pruning.plan import DECIDING
    from mmssmprune.pruning.pruner import CHOICES

    for kind, names in (('reduction', args.reductions), ('restoration', args.restorations)):
        unknown = [name for name in names if name not in CHOICES[kind]]
        if unknown:
            raise ValueError(f'there is no {kind} {unknown[0]!r}; the names are {", ".join(CHOICES[kind])}')
    cfg = load_config(args.config, args.cfg_options)
    task = task_of(cfg, Path(args.config).stem)
    titles = [metric.title for metric in task.metrics]
    metric = args.metric or titles[0]
    if metric not in titles:
        raise ValueError(f'--metric is {metric!r}; the metrics of this config are {", ".join(titles)}')
    shape = tuple(args.shape) if args.shape else None
    tester = PlanTester(cfg, Path(args.checkpoint), task, metric, out, shape)
    own = cfg.model.backbone.get('pruning') or {}
    searched = {*DECIDING, 'layers', 'start', 'every', 'input_shape', 'reduction', 'restoration'}
    shared = {key: value for key, value in own.items() if key not in searched}
    return tester, make_arms(candidate_layers(tester.backbone.stages), args.reductions, args.restorations, shared)


if __name__ == '__main__':
    main()
