"""docs/results: one Markdown page per kind of study, a page about how it was made, the figures and the CSV file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mmssmprune.analysis.escape import escape_markdown, markdown_code
from mmssmprune.checkpoints.writing import write_whole

from .figures import draw
from .plan import Study, StudyPlan, StudySetting, plan_runs
from .records import Record, join_records, read_csv, read_records, to_csv
from .tables import Difference, Mean, Table, make_tables

NOT_RUN, NOT_PLANNED, NO_SUCH = 'not run', '-', 'none'
HOW_TO_READ = """\
`free` is the dense model pruned as it is, without any training; `tuned` is after a short fine-tuning, the same for
every row. Accuracies are percentages: mean ± sample standard deviation over seeds. `small` is the AP of
small objects{small}.

A difference (Δ) is paired: it is taken between two runs that started from the same dense checkpoint, then averaged
over seeds; in brackets the 95 % t-interval of that mean. `better` and `worse` mean that the interval excludes zero; it
is not corrected for the number of comparisons on this page, so now and then one of them will be chance. Below three
seeds there is no verdict. In figures, bars are standard deviations and a dotted line is the row that all
others are compared with.
"""
SMALL_CLASSES = ', in segmentation the mean IoU over the classes\n{}'
METHOD = """\
An interrupted command goes on where it stopped; what has a result is not run again, and `--report-only` writes these
pages anew. What `results.csv` has stays in them, also where its work dir is not, unless a test is run again or a seed
gets another dense model. For every setting a dense model is trained with each seed; planned are {seeds}. A row changes
its pruning and is tested twice: `free`, on the dense weights as they are, and `tuned`, after a short schedule that is
the same for every row, the dense one included (by default a fifth of the dense learning rate). All rows of a seed start
from the same dense checkpoint and see the same batches. FLOPs are those of the backbone for one image; one
multiply-add counts as one. `results.csv` has one line per test, with every class, the versions of the software and
hashes of config, data and checkpoints.

{limits}
"""


def write_report(
    plan: StudyPlan, seeds: Sequence[int], root: Path, out: Path, tell: Callable[[str], None] = print
) -> list[Path]:
    """Write everything from the results below ``root`` and those that ``out/results.csv`` has besides.

    Args:
        plan: what was planned; results of anything else are left out of the tables.
        seeds: of the plan, or others.
        root: where results are.
        out: the folder; files that this report does not have are left alone.
        tell: given a line for each seed whose results in the CSV file another dense model has replaced.

    Returns:
        The files written.
    """
    records, replaced = join_records(read_csv(out / 'results.csv'), read_records(root))
    for (setting, seed), number in Counter((record['setting'], record['seed']) for record in replaced).items():
        tell(f'{setting}, seed {seed}: {number} results in {out / "results.csv"} are of another dense model: left out.')
    tables = {study.name: make_tables(study, plan.settings, records) for study in plan.studies}
    figures = {name: draw(of_study) for name, of_study in tables.items()}
    files = {out / 'figures' / f'{name}.png': png for name, png in figures.items() if png is not None}
    files |= {out / f'{page}.md': page_text(page, plan, tables) for page in _pages(plan)}
    files[out / 'README.md'] = readme_text(plan, seeds, records)
    files[out / 'results.csv'] = to_csv(records)
    for path, content in files.items():
        write_whole(path, content)
    return list(files)


def _pages(plan: StudyPlan) -> dict[str, str]:
    """Name -> title."""
    names = dict.fromkeys(study.page for study in plan.studies)
    return {name: plan.page_titles.get(name, name.capitalize()) for name in names}


def page_text(page: str, plan: StudyPlan, tables: dict[str, list[Table]]) -> str:
    """All tables and figures of one page."""
    small = ', '.join(dict.fromkeys(f'`{name}`' for setting in plan.settings for name in setting.small_classes))
    parts = [f'# {_pages(plan)[page]}', HOW_TO_READ.format(small=small and SMALL_CLASSES.format(small))]
    for study in (study for study in plan.studies if study.page == page):
        parts += [f'## {study.title}', study.text]
        if any(table.phases for table in tables[study.name]):
            parts.append(f'![{study.title}](figures/{study.name}.png)')
        for table in tables[study.name]:
            parts.append(f'### {table.setting.title}: {table.metric}')
            parts.append(table_text(table) if table.phases else f'{NOT_RUN.capitalize()} yet.')
    parts.append('How these numbers were made: [README.md](README.md); every run: [results.csv](results.csv).')
    return _joined(parts)


def _joined(parts: Sequence[str]) -> str:
    return '\n\n'.join(part.strip() for part in parts) + '\n'


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def table_text(table: Table) -> str:
    """One Markdown table."""
    phases = table.study.phases
    header, rule, lines = ['row', 'seeds', 'backbone GFLOPs', 'FLOPs'], ['---', '---:', '---:', '---:'], []
    for phase in phases:
        small = [f'small {phase}'] if table.has_small else []
        header += [f'{table.metric} {phase}', *small, f'Δ {table.metric} {phase}']
        rule += ['---:', *['---:'] * len(small), '---']
    for label, row in table.study.rows.items():
        flops, saved = table.costs.get(label, (None, None))
        runs = [str(table.cells[label, phase].runs) for phase in phases if phase in row.phases]
        line = [label, runs[0] if len(set(runs)) == 1 else ' / '.join(runs)]
        line += [NOT_RUN, NOT_RUN] if flops is None else [f'{flops / 1e9:.4f}', _change(saved)]
        for phase in phases:
            line += _phase_cells(table, label, phase)
        lines.append(line)
    return _markdown([header, rule, *lines])


def _change(reduction: float) -> str:
    return 'dense' if abs(reduction) < 1e-9 else f'{-100 * reduction:+.1f} %'


def _phase_cells(table: Table, label: str, phase: str) -> list[str]:
    """The metric, that of small objects if it is known, and the difference."""
    cell, against = table.cells.get((label, phase)), table.study.rows[label].against
    if cell is None:
        return [NOT_PLANNED] * (3 if table.has_small else 2)
    means = [mean_text(cell.mean)]
    if table.has_small:
        means.append(NO_SUCH if cell.runs and cell.small is None else mean_text(cell.small))
    if against is None:
        return [*means, 'reference']
    return [*means, difference_text(cell.difference) if (against, phase) in table.cells else NOT_PLANNED]


def mean_text(mean: Mean | None) -> str:
    """``41.0 ± 1.2``."""
    if mean is None:
        return NOT_RUN
    return f'{mean.mean:.1f}' if mean.sd is None else f'{mean.mean:.1f} ± {mean.sd:.1f}'


def difference_text(difference: Difference | None) -> str:
    """``+1.23 [+0.50, +1.96] better``."""
    if difference is None:
        return NOT_RUN
    interval = '' if difference.interval is None else '[{:+.2f}, {:+.2f}] '.format(*difference.interval)
    return f'{difference.mean:+.2f} {interval}{difference.verdict}'


def readme_text(plan: StudyPlan, seeds: Sequence[int], records: Sequence[Record]) -> str:
    """The page about how it was made."""
    parts = [
        '# Results',
        plan.about,
        '\n'.join(f'- [{title}]({page}.md)' for page, title in _pages(plan).items()),
        '## How they were made',
        f'```\n{plan.command}\n```',
        METHOD.format(seeds=', '.join(map(str, seeds)), limits=plan.limits),
        _settings_table(plan.settings, records),
        '## What was run',
        'Runs with a result, of those planned (studies share runs):',
        _progress_table(plan, seeds, records),
        _origin(records),
    ]
    return _joined(parts)


def _settings_table(settings: Sequence[StudySetting], records: Sequence[Record]) -> str:
    lines = [
        ['setting', 'config', 'seeds', 'dense iterations', 'fine-tuning', 'test images'],
        ['---', '---', '---:', '---:', '---:', '---:'],
    ]
    for setting in settings:
        own = [record for record in records if record['setting'] == setting.name]
        seeds, images = (
            ', '.join(map(str, sorted({record[key] for record in own}))) or NOT_RUN for key in ('seed', 'num_images')
        )
        config = f'`{Path(setting.config).name}`'
        lines.append([f'`{setting.name}`', config, seeds, str(setting.dense_iters), str(setting.tune_iters), images])
    return _markdown(lines)


def _progress_table(plan: StudyPlan, seeds: Sequence[int], records: Sequence[Record]) -> str:
    there = {(record['setting'], record['series'], record['seed']) for record in records}

    def done(study: Study, setting: StudySetting) -> str:
        runs = {(setting.name, run.series, run.seed) for run in plan_runs([study], [setting], seeds)}
        return f'{len(runs & there)} of {len(runs)}' if study.fits(setting) else NOT_PLANNED

    lines = [['study', *(f'`{setting.name}`' for setting in plan.settings)], ['---'] + ['---:'] * len(plan.settings)]
    lines += [[study.title, *(done(study, setting) for setting in plan.settings)] for study in plan.studies]
    return _markdown(lines)


def _origin(records: Sequence[Record]) -> str:
    if not records:
        return 'Nothing was run yet.'
    dates = sorted(record['created'][:10] for record in records)
    training = {(r['setting'], r['series'], r['seed']): r['train_seconds'] for r in records}  # once per run
    seconds = sum(training.values()) + sum(record['seconds'] for record in records)
    devices, versions, sources, settings = (
        sorted({record[column] for record in records}) for column in ('device', 'versions', 'source', 'setting')
    )
    lines = [
        f'- Made from {dates[0]} to {dates[-1]}, in {seconds / 3600:.1f} hours of fine-tuning and testing on: '
        + ', '.join(map(escape_markdown, devices)),
        *(f'- Versions: {escape_markdown(each)}' for each in versions),
    ]
    if len(sources) > 1:
        lines.append(f'- Made with {len(sources)} states of the source code (column `source` of results.csv).')
    for setting in settings:
        for what, column in (('config', 'config_hash'), ('test data', 'data_hash')):
            if len({record[column] for record in records if record['setting'] == setting}) > 1:
                lines.append(
                    f'- The {what} of {markdown_code(setting)} changed between runs (column `{column}` of results.csv).'
                )
    return '\n'.join(lines)
