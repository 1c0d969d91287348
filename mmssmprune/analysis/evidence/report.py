"""docs/results: one Markdown page per kind of study, a page about how it was made, the figures and the CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmssmprune.analysis.escape import escape_markdown, markdown_code
from mmssmprune.analysis.results import write_atomically

from .figures import draw
from .plan import Line, Study, StudyFolders, StudySetting, plan_runs
from .records import Book, MetricOfSetting, Reading, metrics_of, read_records, to_csv
from .stats import Difference, Mean

NOT_RUN, NOT_PLANNED = 'not run', '-'
PAGE_TITLES = {
    'levels': 'Dense against pruned',
    'ablations': 'Ablations',
    'elastic': 'One checkpoint for all levels',
    'beyond': 'Beyond the ablations',
}
HOW_TO_READ = """\
`free` is the dense model pruned as it is, without any training; `tuned` is after a short fine-tuning, the same for
every row. Accuracies are percentages: mean ± sample standard deviation over seeds. `far` is the mean over the classes
that only a marker elsewhere in the image tells apart ({far}).

A difference (Δ) is paired: it is taken between two runs that started from the same dense checkpoint, then averaged
over seeds; in brackets the 95 % t-interval of that mean. `better` and `worse` mean that the interval excludes zero; it
is not corrected for the number of comparisons on this page, so now and then one of them will be chance. Below three
seeds there is no verdict. In figures, bars are standard deviations and a dotted line is the row that others are
compared with.
"""


def write_report(
    settings: Sequence[StudySetting],
    studies: Sequence[Study],
    seeds: Sequence[int],
    folders: StudyFolders,
    out: Path,
    command: str,
) -> list[Path]:
    """Write everything from the results in ``folders``, or from ``out/results.csv`` where there are none.

    Args:
        settings, studies, seeds: what was planned; results of anything else are left out of the tables.
        folders: where results are.
        out: the folder; files that this report does not have are left alone.
        command: how to repeat it.

    Returns:
        The files written.
    """
    records = read_records(folders, out / 'results.csv')
    book = Book(records)
    figures = {study.name: draw(study, metrics_of(settings, study), book) for study in studies if study.lines}
    files: dict[Path, str | bytes] = {
        out / 'figures' / f'{name}.png': figure for name, figure in figures.items() if figure is not None
    }
    pages = list(dict.fromkeys(study.page for study in studies if study.lines))
    for page in pages:
        of_page = [study for study in studies if study.page == page and study.lines]
        files[out / f'{page}.md'] = page_text(page, of_page, settings, book, figures)
    files[out / 'README.md'] = readme_text(settings, studies, seeds, book, pages, command)
    files[out / 'results.csv'] = to_csv(records)
    for path, content in files.items():
        write_atomically(path, content)
    return list(files)


def page_text(
    page: str, studies: Sequence[Study], settings: Sequence[StudySetting], book: Book, figures: dict[str, bytes | None]
) -> str:
    """All tables and figures of one page."""
    far = ', '.join(dict.fromkeys(f'`{name}`' for setting in settings for name in setting.far_classes))
    parts = [f'# {PAGE_TITLES.get(page, page.capitalize())}', HOW_TO_READ.format(far=far)]
    for study in studies:
        parts += [f'## {study.title}', study.text]
        if figures.get(study.name) is not None:
            parts.append(f'![{study.title}](figures/{study.name}.png)')
        for metric in metrics_of(settings, study):
            text = (
                table_text(study, metric, book) if book.has(study, metric.setting) else f'{NOT_RUN.capitalize()} yet.'
            )
            parts += [f'### {metric.setting.title}: {metric.title}', text]
    parts.append('How these numbers were made: [README.md](README.md); every run: [results.csv](results.csv).')
    return '\n\n'.join(part.strip() for part in parts) + '\n'


def table_text(study: Study, metric: MetricOfSetting, book: Book) -> str:
    """One Markdown table."""
    header = ['row', 'seeds', 'backbone GFLOPs', 'FLOPs']
    for phase in study.phases:
        header += [f'{metric.title} {phase}', f'far {phase}', f'Δ {metric.title} {phase}']
    rule = ['---', *['---:'] * 3, *['---:', '---:', '---'] * len(study.phases)]
    return _markdown([header, rule, *(_line_cells(line, study, metric, book) for line in study.lines)])


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def _line_cells(line: Line, study: Study, metric: MetricOfSetting, book: Book) -> list[str]:
    cost = book.cost(metric.setting, line)
    cells = [line.label, _seeds(line, study, metric, book)]
    cells += [NOT_RUN, NOT_RUN] if cost is None else [f'{cost[0] / 1e9:.4f}', _change(cost[1])]
    for phase in study.phases:
        if phase not in line.row.phases:
            cells += [NOT_PLANNED] * 3
            continue
        cells += [_mean_cell(book.mean(metric.setting, line, phase, read)) for read in (metric.main, metric.far)]
        cells.append(_difference_cell(line, study, metric, book, phase, metric.main))
    return cells


def _seeds(line: Line, study: Study, metric: MetricOfSetting, book: Book) -> str:
    phases = [phase for phase in study.phases if phase in line.row.phases]
    counts = [len(book.of(metric.setting, line, phase)) for phase in phases]
    return str(counts[0]) if len(set(counts)) == 1 else ' / '.join(map(str, counts))


def _change(reduction: float) -> str:
    return 'dense' if abs(reduction) < 1e-9 else f'{-100 * reduction:+.1f} %'


def _mean_cell(mean: Mean | None) -> str:
    if mean is None:
        return NOT_RUN
    return f'{mean.mean:.1f}' if mean.sd is None else f'{mean.mean:.1f} ± {mean.sd:.1f}'


def _difference_cell(line: Line, study: Study, metric: MetricOfSetting, book: Book, phase: str, read: Reading) -> str:
    if line.against is None:
        return 'reference'
    other = next(other for other in study.lines if other.label == line.against)
    if phase not in other.row.phases:
        return NOT_PLANNED
    difference = book.difference(metric.setting, line, other, phase, read)
    return NOT_RUN if difference is None else difference_text(difference)


def difference_text(difference: Difference) -> str:
    """``+1.23 [+0.50, +1.96] better``."""
    interval = '' if difference.interval is None else '[{:+.2f}, {:+.2f}] '.format(*difference.interval)
    return f'{difference.mean:+.2f} {interval}{difference.verdict}'


def readme_text(
    settings: Sequence[StudySetting],
    studies: Sequence[Study],
    seeds: Sequence[int],
    book: Book,
    pages: Sequence[str],
    command: str,
) -> str:
    """The page about how it was made."""
    parts = [
        '# Results',
        'Measured by this project, on the small data sets that it makes itself (`make data`): ',
        '\n'.join(f'- [{PAGE_TITLES.get(page, page.capitalize())}]({page}.md)' for page in pages),
        '## How they were made',
        f'```\n{command}\n```',
        _method(seeds),
        _settings_table(settings, book),
        '## What was run',
        _progress(settings, studies, seeds, book),
        _origin(book),
    ]
    return '\n\n'.join(part.strip() for part in parts) + '\n'


def _method(seeds: Sequence[int]) -> str:
    return f"""\
An interrupted command goes on where it stopped; what has a result is not run again, and `--report-only` writes these
pages anew. For every setting a dense model is trained with each of the seeds {', '.join(map(str, seeds))}. A row
changes its pruning and is tested twice: `free`, on the dense weights as they are, and `tuned`, after a short schedule
that is the same for every row, the dense one included (by default a fifth of the dense learning rate). All rows of a
seed start from the same dense checkpoint and see the same batches. FLOPs are those of the backbone for one image; one
multiply-add counts as one. `results.csv` has one line per test, with every class, the versions of the software and
hashes of config, data and checkpoints.

These are models of eight layers and 256 tokens, trained for minutes on a processor: they show how the choices compare
with each other here, not what they are worth on COCO or ADE20K."""


def _settings_table(settings: Sequence[StudySetting], book: Book) -> str:
    header = ['setting', 'config', 'dense iterations', 'fine-tuning', 'test images']
    lines = [header, ['---', '---', '---:', '---:', '---:']]
    for setting in settings:
        images = {record['num_images'] for record in book.all if record['setting'] == setting.name}
        shown = ', '.join(map(str, sorted(images))) or NOT_RUN
        config = f'`{Path(setting.config).name}`'
        lines.append([f'`{setting.name}`', config, str(setting.dense_iters), str(setting.tune_iters), shown])
    return _markdown(lines)


def _progress(settings: Sequence[StudySetting], studies: Sequence[Study], seeds: Sequence[int], book: Book) -> str:
    there = {(record['setting'], record['series'], record['seed']) for record in book.all}
    lines = [['study', *(f'`{setting.name}`' for setting in settings)], ['---'] + ['---:'] * len(settings)]
    for study in studies:
        if study.lines:
            lines.append([study.title, *(_done(study, setting, seeds, there) for setting in settings)])
    return f'Runs with a result, of those planned (studies share runs):\n\n{_markdown(lines)}'


def _done(study: Study, setting: StudySetting, seeds: Sequence[int], there: set) -> str:
    if not study.fits(setting):
        return NOT_PLANNED
    runs = {(setting.name, run.series, run.seed) for run in plan_runs([study], [setting], seeds)}
    return f'{len(runs & there)} of {len(runs)}'


def _origin(book: Book) -> str:
    if not book.all:
        return 'Nothing was run yet.'
    dates = sorted(record['created'][:10] for record in book.all)
    training = {(r['setting'], r['series'], r['seed']): r['train_seconds'] for r in book.all}  # once per run
    seconds = sum(training.values()) + sum(record['seconds'] for record in book.all)
    lines = [
        f'- Made from {dates[0]} to {dates[-1]}, in {seconds / 3600:.1f} hours of fine-tuning and testing on: '
        + ', '.join(sorted({escape_markdown(record['device']) for record in book.all})),
        *(
            f'- Versions: {escape_markdown(versions)}'
            for versions in sorted({record['versions'] for record in book.all})
        ),
    ]
    sources = sorted({record['source'] for record in book.all})
    if len(sources) > 1:
        lines.append(f'- Made with {len(sources)} states of the source code (column `source` of results.csv).')
    for setting in sorted({record['setting'] for record in book.all}):
        for what, column in (('config', 'config_hash'), ('test data', 'data_hash')):
            if len({record[column] for record in book.all if record['setting'] == setting}) > 1:
                lines.append(
                    f'- The {what} of {markdown_code(setting)} changed between runs (column `{column}` of results.csv).'
                )
    return '\n'.join(lines)
