"""The study's plan, statistics, tables, figures and CSV file, from results written by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from io import BytesIO
from pathlib import Path

import pytest
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmssmprune.analysis.evidence.figures import draw
from mmssmprune.analysis.evidence.plan import (
    REPO,
    Run,
    Study,
    StudyPlan,
    StudyRow,
    StudySetting,
    load_plan,
    plan_runs,
    result_file,
)
from mmssmprune.analysis.evidence.records import (
    flatten,
    from_csv,
    read_csv,
    read_records,
    read_result,
    read_results,
    to_csv,
)
from mmssmprune.analysis.evidence.report import difference_text, page_text, table_text, write_report
from mmssmprune.analysis.evidence.tables import (
    BETTER,
    FEW_SEEDS,
    NO_DIFFERENCE,
    WORSE,
    Table,
    make_tables,
    mean_of,
    paired_difference,
)
from mmssmprune.engine.runner_setup import load_config

SEG = StudySetting('tiny-seg', 'Tiny segmentation', 'none.py', 'seg', 10, 5, small_classes=('red', 'blue'))
DET = StudySetting('tiny-det', 'Tiny detection', 'none.py', 'det', 10, 5)
NONE, CARRY = (StudyRow(dict(layers=[1], keep_ratio=0.7, alignment=name)) for name in ('none', 'carry'))
STUDY = Study('alignment', 'Alignment', 'What?', {'none': NONE, 'carry': CARRY}, 'none')
PLAN = StudyPlan([SEG], [STUDY], [0])
RESULTS = REPO / 'docs/results/results.csv'


def write(root: Path, run: Run, main: float, small: tuple = (10.0, 20.0), reduction: float = 0.4, dense: str = 'd'):
    """A result as runs.execute writes it; the accuracies are percentages."""
    if run.setting.task == 'seg':
        metrics, classes = {'mIoU': main}, {'IoU': {'red': small[0], 'blue': small[1]}}
    else:
        metrics = {'coco/bbox_mAP': main / 100, 'coco/segm_mAP': main / 200}
        metrics |= {f'{name}_s': value / 2 for name, value in metrics.items()} | {'coco/bbox_mAP_l': -1.0}
        classes = {kind: {'red': 10.0, 'blue': 20.0} for kind in ('bbox', 'segm')}
    test = {
        'pruning': run.row.pruning,
        'metrics': metrics,
        'per_class': classes,
        'flops': round(1e8 * (1 - reduction)),
        'reduction': reduction,
        'tokens': [4, 2],
        'keep_ratios': [0.5],
        'num_images': 7,
        'seconds': 3.0,
    }
    result = {key: getattr(run, key) for key in ('id', 'series', 'phase', 'seed', 'definition', 'label')}
    result |= {'setting': run.setting.name, 'training': {'seconds': 20.0, 'iterations': 5}, 'seconds': 24.0}
    result |= {'config_hash': 'c' * 64, 'data_hash': 'd' * 64, 'checkpoint_hash': 'k' * 64}
    result |= {'dense_checkpoint_hash': f'{dense}{run.seed}' * 32, 'tests': [test] * len(run.row.tests)}
    result |= {'versions': {'torch': '2'}, 'source': 's', 'device': 'cpu', 'created': '2030-01-02T03:04:05+00:00'}
    result_file(root, run).parent.mkdir(parents=True, exist_ok=True)
    result_file(root, run).write_text(json.dumps(result))


def cells(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f'| {label} |')]
    return [cell.strip() for cell in line.strip('|').split('|')]


# Statistics ----------------------------------------------------------------------------------------------------------


def test_mean_and_sample_deviation():
    summary = mean_of([1.0, 2.0, 6.0])
    assert summary.mean == 3.0
    assert summary.sd == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    assert mean_of([5.0]).sd is None
    assert mean_of([]) is None


def test_paired_difference_by_hand():
    # Differences 1, 2 and 3: mean 2, sd 1. The table of t says 4.3027 for 2 degrees of freedom, two-sided 95 %.
    found = paired_difference({0: 11.0, 1: 22.0, 2: 33.0, 7: 0.0}, {2: 30.0, 1: 20.0, 0: 10.0, 9: 100.0})
    assert found.mean == 2.0
    half = 4.3027 / math.sqrt(3)
    assert found.interval == (pytest.approx(2 - half, abs=1e-4), pytest.approx(2 + half, abs=1e-4))
    assert found.verdict == NO_DIFFERENCE


@pytest.mark.parametrize(
    ('differences', 'verdict'),
    [
        ([2.0, 2.1, 2.2], BETTER),
        ([-2.0, -2.1, -2.2], WORSE),
        ([1.0, -1.0, 0.5], NO_DIFFERENCE),
        ([0.0, 0.0, 0.0], NO_DIFFERENCE),
        ([1.0, 1.0, 1.0], BETTER),
        ([2.0, 2.1], FEW_SEEDS),
    ],
)
def test_verdicts(differences: list[float], verdict: str):
    found = paired_difference(dict(enumerate(differences)), dict.fromkeys(range(9), 0.0))
    assert found.verdict == verdict
    assert (found.interval is None) == (verdict == FEW_SEEDS)
    assert found.mean == pytest.approx(statistics.mean(differences))


def test_no_common_seed_no_difference():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_difference_text():
    found = paired_difference({0: 2.0, 1: 2.1, 2: 2.2}, dict.fromkeys(range(3), 0.0))
    assert difference_text(found) == '+2.10 [+1.85, +2.35] better'
    assert difference_text(paired_difference({0: -1.0}, {0: 0.0})) == '-1.00 few seeds'


# Plan ----------------------------------------------------------------------------------------------------------------


def test_the_order_and_that_studies_share_runs():
    other = Study('second', 'Second', '', {'same as carry': CARRY, 'dense': None})
    runs = plan_runs([STUDY, other], [SEG, DET], [0, 1])
    names = [run.name for run in runs]
    assert names[:4] == [
        'tiny-seg/alignment/none/free/seed0',
        'tiny-seg/alignment/carry/free/seed0',
        'tiny-det/alignment/none/free/seed0',
        'tiny-det/alignment/carry/free/seed0',
    ]
    assert names[8] == 'tiny-seg/alignment/none/tuned/seed0'
    assert names[16] == 'tiny-seg/second/dense/free/seed0'
    assert len(names) == 16 + 8  # the second study adds the dense model only
    assert len({(run.setting.name, run.id) for run in runs}) == len(runs)
    assert [run.name for run in plan_runs([STUDY], [SEG], [0], only='*/carry/*')] == [
        'tiny-seg/alignment/carry/free/seed0',
        'tiny-seg/alignment/carry/tuned/seed0',
    ]


def test_a_changed_row_is_a_new_run():
    def ids(setting: StudySetting = SEG, row: StudyRow = CARRY) -> tuple[str, str]:
        return tuple(Run(setting, row, phase, 0).id for phase in ('free', 'tuned'))

    assert ids() == ids(row=StudyRow(dict(CARRY.pruning)))
    free, tuned = ids(row=StudyRow(CARRY.pruning, cfg=dict(custom_hooks=[dict(type='X')])))
    assert (free == ids()[0], tuned == ids()[1]) == (True, False)  # a hook of the training is nothing to dense weights
    longer = StudySetting('tiny-seg', 'T', 'none.py', 'seg', 10, 6)
    assert (ids(longer)[0] == ids()[0], ids(longer)[1] == ids()[1]) == (True, False)
    assert not set(ids(row=StudyRow(CARRY.pruning | {'keep_ratio': 0.6}))) & set(ids())
    assert not set(ids(row=StudyRow(CARRY.pruning, tests=(dict(keep_ratio=0.5),)))) & set(ids())


def test_a_test_level_replaces_the_level_of_the_row():
    def at(row: StudyRow, test: int) -> dict | None:
        return Run(SEG, row, 'free', 0).pruning_at(test)

    row = StudyRow(dict(layers=[1], flops_reduction=0.4, input_shape=(8, 8)), tests=({}, dict(keep_ratio=0.5)))
    assert at(row, 0) == row.pruning
    assert at(row, 1) == dict(layers=[1], keep_ratio=0.5)
    assert at(StudyRow(row.pruning, tests=(dict(flops_reduction=0.1),)), 0) == row.pruning | {'flops_reduction': 0.1}
    assert at(StudyRow(dict(layers=[1])), 0) == dict(layers=[1], flops_reduction=0.4, input_shape=(128, 128))
    assert at(StudyRow(None), 0) is None


def test_a_study_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="compared with 'x', which is no row"):
        Study('s', 'S', '', {'a': NONE}, reference='x')
    with pytest.raises(ValueError, match='shows test 1 of 1'):
        Study('s', 'S', '', {'a': StudyRow(None, test=1)})


def test_what_was_measured_is_found_again():
    plan = load_plan()
    planned = {(run.setting.name, run.series) for run in plan_runs(plan.studies, plan.settings, plan.seeds)}
    measured = {(record['setting'], record['series']) for record in read_csv(RESULTS)}
    assert len(measured & planned) >= 174  # others are of removed choices
    assert all((REPO / setting.config).is_file() for setting in plan.settings)


def test_every_row_of_the_plan_fits_its_model():
    plan = load_plan()
    runs = {}
    for run in plan_runs(plan.studies, plan.settings, (0,)):
        if run.pruning is not None:
            runs.setdefault((run.setting.name, str(run.pruning)), run)
    backbones = {}
    for run in runs.values():
        setting = run.setting
        if setting.name not in backbones:
            cfg = load_config(str(REPO / setting.config))
            init_default_scope(cfg.default_scope)
            backbones[setting.name] = MODELS.build(cfg.model.backbone)
        pruning = dict(run.pruning, keep_ratio=0.9, flops_reduction=None, input_shape=None)  # solving takes seconds
        if 'start' not in pruning:
            pruning['layers'] = pruning.get('layers', 'default')
        backbone = backbones[setting.name]
        backbone.set_pruning(pruning)
        dense = backbone.dense_tokens_per_layer(backbone.grids_of(setting.shape))
        assert sum(backbone.tokens_per_layer(setting.shape)) < sum(dense), run.name


PHOTOGRAPHS = """
from mmssmprune.analysis.evidence.plan import Study, StudySetting
ABOUT = 'Measured on photographs:'
SEEDS = (0, 1)
SETTINGS = [
    StudySetting(f'{backbone}-{data}', f'{backbone}, {data}', f'{backbone}_{data}.py', task, 4000, 400,
                 options={'train_dataloader.num_workers': 0}, shape=(360, 480))
    for backbone in ('vim', 'plain_mamba', 'vmamba')
    for data, task in (('camvid', 'seg'), ('nuclei', 'det'), ('bccd', 'box'))]
RECIPE = dict(importance='clip', flops_reduction=0.3, input_shape=(360, 480))
ROWS = {name: RECIPE | dict(restoration=name) for name in ('hold', 'follow', 'drift')}
STUDIES = [Study('restoration', 'Restoration', 'Which?', {'dense': None} | ROWS, 'dense', page='photographs')]
"""


def test_another_study_is_rows_in_a_file(tmp_path: Path):
    (tmp_path / 'plan.py').write_text(PHOTOGRAPHS)
    plan = load_plan(tmp_path / 'plan.py')
    runs = plan_runs(plan.studies, plan.settings, plan.seeds)
    assert len(runs) == 9 * 4 * 2 * 2
    assert len({(run.setting.name, run.dense.id) for run in runs}) == 9 * 2
    setting = plan.settings[2]  # boxes alone
    for seed in plan.seeds:
        for i, row in enumerate(plan.studies[0].rows.values()):
            write(tmp_path, Run(setting, row, 'free', seed), 50.0 - i, reduction=0.3 * (i > 0))
    write_report(plan, plan.seeds, tmp_path, tmp_path / 'out')
    page = (tmp_path / 'out/photographs.md').read_text()
    assert '| row | seeds | backbone GFLOPs | FLOPs | bbox mAP free | small free | Δ bbox mAP free |' in page
    assert cells(page, 'hold')[1:6] == ['2 / 0', '0.0700', '-30.0 %', '49.0 ± 0.0', '24.5 ± 0.0']
    assert '`small` is the AP of\nsmall objects.' in page
    assert 'Measured on photographs:' in (tmp_path / 'out/README.md').read_text()


def test_options_of_a_setting_are_part_of_its_runs():
    other = dataclasses.replace(SEG, options={'train_dataloader.batch_size': 4})
    assert Run(SEG, NONE, 'free', 0).id != Run(other, NONE, 'free', 0).id
    assert 'options' not in Run(SEG, NONE, 'free', 0).definition


def test_a_plan_without_studies_is_refused(tmp_path: Path):
    (tmp_path / 'plan.py').write_text('SETTINGS = []')
    with pytest.raises(ValueError, match='has to define SETTINGS and STUDIES'):
        load_plan(tmp_path / 'plan.py')
    with pytest.raises(FileNotFoundError, match=r'no\.py does not exist'):
        load_plan(tmp_path / 'no.py')


# Report --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Three seeds of `none`, three of `carry` without and two with fine-tuning, in segmentation only."""
    places = tmp_path / 'work'
    for seed, (none, carry) in enumerate(zip((30.0, 31.0, 32.0), (32.0, 33.1, 34.2), strict=True)):
        write(places, Run(SEG, NONE, 'free', seed), none)
        write(places, Run(SEG, CARRY, 'free', seed), carry, small=(20.0, 30.0))
        write(places, Run(SEG, NONE, 'tuned', seed), 50.0 + seed)
        if seed < 2:
            write(places, Run(SEG, CARRY, 'tuned', seed), 49.0 + seed)
    return places


def table(places: Path, setting: StudySetting = SEG, study: Study = STUDY, metric: int = 0) -> str:
    return table_text(make_tables(study, [setting], read_records(places))[metric])


def test_the_table_says_what_was_measured(places: Path):
    text = table(places)
    gflops = '0.0600'
    assert cells(text, 'none') == [
        'none', '3', gflops, '-40.0 %', '31.0 ± 1.0', '15.0 ± 0.0', 'reference', '51.0 ± 1.0',
        '15.0 ± 0.0', 'reference',
    ]  # fmt: skip
    assert cells(text, 'carry') == [
        'carry', '3 / 2', gflops, '-40.0 %', '33.1 ± 1.1', '25.0 ± 0.0', '+2.10 [+1.85, +2.35] better',
        '49.5 ± 0.7', '15.0 ± 0.0', '-1.00 few seeds',
    ]  # fmt: skip


def test_missing_runs_are_no_numbers(places: Path):
    for run in plan_runs([STUDY], [SEG], [0, 1, 2], only='*/none/*'):
        result_file(places, run).unlink()
    for run in plan_runs([STUDY], [SEG], [0, 1, 2], ['free'], '*/carry/*'):
        result_file(places, run).unlink()
    text = table(places)
    assert cells(text, 'none')[1:6] == ['0', 'not run', 'not run', 'not run', 'not run']
    assert cells(text, 'carry')[4:7] == ['not run'] * 3
    assert cells(text, 'carry')[9] == 'not run'


def test_runs_from_other_dense_weights_are_not_paired(places: Path):
    write(places, Run(SEG, CARRY, 'free', 1), 99.0, dense='other')
    assert cells(table(places), 'carry')[6] == '+2.10 few seeds'


def test_detection_has_two_tables_in_percent(places: Path):
    write(places, Run(DET, NONE, 'free', 0), 40.0)
    assert cells(table(places, DET, metric=0), 'none')[4] == '40.0'
    assert cells(table(places, DET, metric=1), 'none')[4] == '20.0'
    assert [made.metric for made in make_tables(STUDY, [DET], [])] == ['bbox mAP', 'segm mAP']


def test_an_undefined_class_gives_no_mean(places: Path):
    write(places, Run(SEG, NONE, 'free', 0), 40.0, small=(None, 20.0))
    assert cells(table(places), 'none')[4:6] == ['34.3 ± 4.9', '15.0 ± 0.0']


def test_a_set_without_small_objects_says_so(places: Path):
    run = Run(DET, NONE, 'free', 0)
    write(places, run, 40.0)
    result = json.loads(result_file(places, run).read_text())
    result['tests'][0]['metrics']['coco/bbox_mAP_s'] = -1.0  # as COCO has it
    result_file(places, run).write_text(json.dumps(result))
    text = table(places, DET)
    assert cells(text, 'none')[4:6] == ['40.0', 'none']
    assert cells(text, 'carry')[4:6] == ['not run', 'not run']


def test_a_study_of_one_phase_shows_only_that(places: Path):
    levels = (dict(keep_ratio=0.9), dict(keep_ratio=0.5))
    elastic = StudyRow(NONE.pruning, ('tuned',), tests=levels, test=1)
    study = Study('elastic', 'E', '', {'one': CARRY, 'all': elastic}, 'one', 'elastic', figure='curves')
    assert study.phases == ('tuned',)
    write(places, Run(SEG, elastic, 'tuned', 0), 60.0)
    assert cells(table(places, study=study), 'all')[4:] == ['60.0', '15.0', '+11.00 few seeds']
    assert len([run for run in plan_runs([study], [SEG], [0]) if run.row.pruning == NONE.pruning]) == 1


def test_the_whole_report_and_again_from_its_csv_file(places: Path, tmp_path: Path):
    levels = Study('levels', 'L', '', STUDY.rows, 'none', 'levels', figure='curves')
    out = tmp_path / 'out'
    plan = StudyPlan([SEG, DET], [STUDY, levels], command='the command')
    files = write_report(plan, plan.seeds, places, out)
    names = sorted(str(path.relative_to(out)) for path in files)
    assert names == [
        'README.md', 'ablations.md', 'figures/alignment.png', 'figures/levels.png', 'levels.md', 'results.csv',
    ]  # fmt: skip
    readme = (out / 'README.md').read_text()
    assert 'the command' in readme and 'torch==2' in readme
    assert cells(readme, 'Alignment') == ['Alignment', '11 of 12', '0 of 12']
    page = (out / 'ablations.md').read_text()
    assert '![Alignment](figures/alignment.png)' in page
    assert 'Not run yet.' in page  # detection
    assert len((out / 'results.csv').read_text().splitlines()) == 1 + 11

    first = {path: path.read_bytes() for path in files}
    write_report(plan, plan.seeds, tmp_path / 'empty', out)
    assert {path: path.read_bytes() for path in files} == first


def test_a_study_goes_on_where_its_work_dir_is_not(places: Path, tmp_path: Path):
    out, elsewhere = tmp_path / 'out', tmp_path / 'elsewhere'
    plan, told = StudyPlan([SEG], [STUDY]), []
    write_report(plan, plan.seeds, places, out)
    write(elsewhere, Run(SEG, NONE, 'free', 3), 33.0)
    write(elsewhere, Run(SEG, CARRY, 'free', 3), 35.3)
    write(elsewhere, Run(SEG, CARRY, 'free', 0), 32.4)  # again, of the same dense model: replaces the earlier one
    write_report(plan, plan.seeds, elsewhere, out, told.append)
    page = (out / 'ablations.md').read_text()
    assert cells(page, 'none')[1] == '4 / 3' and cells(page, 'carry')[1] == '4 / 2'
    assert cells(page, 'carry')[6] == '+2.25 [+2.04, +2.46] better'  # 2.4, 2.1, 2.2, 2.3
    assert len((out / 'results.csv').read_text().splitlines()) == 1 + 13 and not told
    assert cells((out / 'README.md').read_text(), '`tiny-seg`')[2] == '0, 1, 2, 3'


def test_a_new_dense_model_replaces_all_results_of_its_seed(places: Path, tmp_path: Path):
    out, elsewhere, told = tmp_path / 'out', tmp_path / 'elsewhere', []
    write_report(StudyPlan([SEG], [STUDY]), [0, 1, 2], places, out)
    write(elsewhere, Run(SEG, NONE, 'free', 1), 60.0, dense='other')
    write_report(StudyPlan([SEG], [STUDY]), [0, 1, 2], elsewhere, out, told.append)
    page = (out / 'ablations.md').read_text()
    assert cells(page, 'none')[4] == '40.7 ± 16.8'  # 30, 60, 32
    assert cells(page, 'carry')[1] == '2 / 1' and cells(page, 'carry')[6] == '+2.10 few seeds'
    assert told == [f'tiny-seg, seed 1: 4 results in {out / "results.csv"} are of another dense model: left out.']


def test_only_phases_with_a_comparison_are_shown(tmp_path: Path):
    def tables() -> list[Table]:
        return make_tables(STUDY, [SEG], read_records(tmp_path))

    def width() -> int:
        return Image.open(BytesIO(draw(tables()))).width

    write(tmp_path, Run(SEG, NONE, 'free', 0), 30.0)
    assert tables()[0].phases == () and draw(tables()) is None  # the reference alone
    write(tmp_path, Run(SEG, CARRY, 'free', 0), 31.0)
    write(tmp_path, Run(SEG, NONE, 'tuned', 0), 40.0)
    assert tables()[0].phases == ('free',)
    one_panel = width()
    write(tmp_path, Run(SEG, CARRY, 'tuned', 0), 41.0)
    assert tables()[0].phases == ('free', 'tuned') and width() > 1.5 * one_panel


def test_csv_keeps_every_value(places: Path):
    records = read_records(places)
    again = from_csv(to_csv(records))
    order = ('setting', 'phase', 'series', 'seed', 'test')
    assert again == sorted(records, key=lambda record: [record[key] for key in order])


def test_csv_has_no_column_for_what_is_nowhere_defined(places: Path):
    write(places, Run(DET, NONE, 'free', 0), 40.0)
    text = to_csv(read_records(places))
    assert 'coco/bbox_mAP_s' in text and 'coco/bbox_mAP_l' not in text
    assert to_csv(from_csv(text)) == text


def test_a_result_of_many_tests_is_many_records(places: Path):
    row = StudyRow(NONE.pruning, tests=(dict(keep_ratio=0.9), dict(keep_ratio=0.5)))
    run = Run(SEG, row, 'free', 0)
    write(places, run, 1.0)
    assert [record['test'] for record in flatten(json.loads(result_file(places, run).read_text()))] == [0, 1]


def test_nothing_run_at_all(tmp_path: Path):
    out = tmp_path / 'out'
    write_report(PLAN, [0], tmp_path / 'none', out)
    assert 'Nothing was run yet.' in (out / 'README.md').read_text()
    tables = make_tables(STUDY, [SEG], [])
    assert 'Not run yet.' in page_text('ablations', PLAN, {STUDY.name: tables})
    assert draw(tables) is None
    assert read_csv(out / 'results.csv') == []


# Files from elsewhere -------------------------------------------------------------------------------------------------


def with_one_result(places: Path) -> tuple[Path, Run]:
    (run,) = plan_runs([STUDY], [SEG], [0], ('free',), only='*none*')
    write(places, run, 41.0)
    return places, run


DAMAGE = {
    'truncated': lambda text: text[: len(text) // 2],
    'empty': lambda text: '',
    'another JSON': lambda text: '[1]',
    'no tests': lambda text: json.dumps(json.loads(text) | {'tests': []}),
    'a text for a number': lambda text: text.replace('"seconds": 3.0', '"seconds": "3"'),
    'a metric of words': lambda text: text.replace('41.0', '"good"'),
    'NaN': lambda text: text.replace('41.0', 'NaN'),
    'no device': lambda text: text.replace('"device"', '"devices"'),
}


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_result_counts_as_not_done_and_is_told(damage, tmp_path: Path):
    places, run = with_one_result(tmp_path / 'work')
    whole = result_file(places, run).read_text()
    assert read_result(result_file(places, run)) is not None
    result_file(places, run).write_text(damage(whole))
    assert read_result(result_file(places, run)) is None
    assert read_results(places) == {result_file(places, run): None}
    assert read_records(places) == []
    files = write_report(PLAN, [0], places, tmp_path / 'out')
    assert 'Nothing was run yet' in (tmp_path / 'out/README.md').read_text() and len(files) > 1


def test_one_damaged_result_does_not_hide_the_others(tmp_path: Path):
    places = tmp_path
    runs = plan_runs([STUDY], [SEG], [0, 1], ('free',))
    for i, run in enumerate(runs):
        write(places, run, 40.0 + i)
    result_file(places, runs[1]).write_text('{')
    assert sorted(r['mIoU'] for r in read_records(places)) == [40.0, 42.0, 43.0]
    assert [run for run in runs if read_result(result_file(places, run)) is None] == [runs[1]]


DAMAGED_CSV = {
    'another table': lambda text: 'setting,seed\ntiny-seg,1\n',
    'empty': lambda text: '',
    'a column less': lambda text: text.replace('checkpoint_hash', 'hash'),
    'a word for a number': lambda text: text.replace(',41.0', ',good'),
    'not a number': lambda text: text.replace(',41.0', ',nan'),
    'truncated': lambda text: text[: -len(',10.0,20.0,41.0\n')],
    'a cell more': lambda text: text[:-1] + ',1\n',
}


@pytest.mark.parametrize('damage', DAMAGED_CSV.values(), ids=DAMAGED_CSV.keys())
def test_a_damaged_csv_file_is_told_in_a_sentence(damage, tmp_path: Path):
    places, _ = with_one_result(tmp_path / 'work')
    text = to_csv(read_records(places))
    assert damage(text) != text
    (tmp_path / 'results.csv').write_text(damage(text))
    with pytest.raises(ValueError, match=r'results.csv is damaged .*delete it'):
        read_csv(tmp_path / 'results.csv')


def test_texts_of_a_result_are_no_formula_and_no_html(tmp_path: Path):
    places, run = with_one_result(tmp_path)
    evil = '=cmd|x\n<script>alert(1)</script>'
    content = json.loads(result_file(places, run).read_text()) | {'device': evil, 'versions': {evil: '1'}}
    result_file(places, run).write_text(json.dumps(content))
    records = read_records(places)
    assert "'=cmd|x <script>" in to_csv(records)
    assert from_csv(to_csv(records))[0]['device'] == evil.replace('\n', ' ')
    write_report(PLAN, [0], places, tmp_path / 'out')
    assert '<script' not in (tmp_path / 'out/README.md').read_text()
