"""Make the small data sets: data/mini_coco (COCO format) and data/mini_ade (ADE20K format), with a sample sheet each.

Usage: python tools/dataset_tools/make_mini.py [--out data] [--size 128] [--train 1000] [--val 150] [--seed 0]

What is already there with the same settings is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.markup import escape
from rich.progress import Progress

from mmssmprune.datasets import DATA_SETS, Settings, is_made, make_data_set


def make(name: str, root: Path, settings: Settings) -> None:
    """Make one data set and its sample sheet, or say that it is there."""
    if is_made(root, settings):
        print(f'{root}: already made with these settings')
        return
    with Progress() as progress:
        task = progress.add_task(f'making {escape(str(root))}', total=settings.train + settings.val)
        make_data_set(name, root, settings, lambda: progress.advance(task))
    print(f'{root}: {settings.train} train and {settings.val} val images; look at {root / "samples.png"}')


def main() -> None:
    """Parse the command line and make both data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('data'), help='folder that gets both data sets')
    for key, what in {
        'size': 'image side in pixels',
        'train': 'train images',
        'val': 'val images',
        'seed': 'seed',
    }.items():
        parser.add_argument(f'--{key}', type=int, default=getattr(Settings, key), help=f'{what} (%(default)s)')
    args = parser.parse_args()
    try:
        settings = Settings(args.size, args.train, args.val, args.seed)
        for name in DATA_SETS:
            make(name, args.out / name, settings)
    except (ValueError, OSError) as error:
        parser.exit(2, f'error: {error}\n')


if __name__ == '__main__':
    main()
