"""Count every config of configs/ and write the numbers into the READMEs, the metafile.yml files and model-index.yml.

    python tools/analysis_tools/update_model_zoo.py
    python tools/analysis_tools/update_model_zoo.py --check      # write nothing, exit 1 where a file would change

The FLOPs are those of tools/analysis_tools/get_flops.py by the convention `field`; published accuracies come from
mmssmprune/analysis/comparison/published.yml. It takes some minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from mmssmprune._command_line import make_parser

ROOT = Path(__file__).resolve().parents[2]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 where a file would change')
    return parser.parse_args()


def main() -> None:
    """Count, then write or compare."""
    args = parse_args()
    # Imported late: torch and the suites take seconds, and a typing mistake should show at once.
    from mmssmprune.checkpoints.writing import write_whole
    from mmssmprune.engine.errors import sentence_errors

    console = Console(file=sys.stdout, markup=False, emoji=False)
    with sentence_errors():
        files = wanted_files(console)
    changed = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding='utf-8') != text]
    for path in changed:
        console.print(f'{"would change" if args.check else "written"}: {path.relative_to(ROOT)}', highlight=False)
    if args.check:
        sys.exit(1 if changed else 0)
    for path in changed:
        write_whole(path, files[path])


def wanted_files(console: Console) -> dict[Path, str]:
    """Path -> content of every file that holds counted numbers."""
    from mmssmprune.analysis import model_zoo

    families = sorted(path for path in (ROOT / 'configs').iterdir() if path.is_dir() and path.name != '_base_')
    files = {ROOT / 'model-index.yml': model_zoo.model_index([family.name for family in families])}
    for family in families:
        configs = model_zoo.zoo_configs(family)
        entries = [count(config) for config in track(configs, f'counting {family.name}', console=console)]
        readme = family / 'README.md'
        tables = model_zoo.readme_tables(entries)
        files[readme] = model_zoo.put_tables_into(readme.read_text(encoding='utf-8'), tables)
        files[family / 'metafile.yml'] = model_zoo.metafile(family.name, entries)
    return files


def count(config: Path):
    """The zoo's entry for one config."""
    from mmssmprune.analysis.comparison.entries import find_entries
    from mmssmprune.analysis.cost.model_cost import build_without_weights
    from mmssmprune.analysis.model_zoo import zoo_entry
    from mmssmprune.analysis.quiet import quiet

    entry = find_entries([str(config)])[0]
    with quiet():
        return zoo_entry(entry, build_without_weights(entry.cfg))


if __name__ == '__main__':
    main()
