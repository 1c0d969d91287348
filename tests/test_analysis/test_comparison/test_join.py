from __future__ import annotations

from dataclasses import replace

import pytest
from reports import DEVICE, SOFTWARE, make_report, make_rows

from mmssmprune.analysis.comparison.derive import (
    check_devices,
    check_same_data,
    common_shape,
    describe_devices,
    with_own_names,
    without_duplicates,
)
from mmssmprune.analysis.software import software_difference

OTHER = {**DEVICE, 'threads': 4}


def test_models_on_different_data():
    check_same_data([])
    check_same_data([('a', 'x'), ('b', 'x'), ('not run', None)])
    with pytest.raises(ValueError, match='a and c are tested on different data'):
        check_same_data([('not run', None), ('a', 'x'), ('b', 'x'), ('c', 'y')])
    with pytest.raises(ValueError, match='a and a are'):  # two rows of one name
        check_same_data([('a', 'x'), ('a', 'y')])


def test_sizes():
    table = make_report().tables[0]
    assert common_shape([], None) is None
    assert common_shape([table], None) == common_shape([table, table], (96, 120)) == (96, 120)
    with pytest.raises(ValueError, match='at 64 x 64 and 96 x 120 do not share a column'):
        common_shape([table], (64, 64))


@pytest.mark.parametrize('other', [OTHER, {**DEVICE, 'dtype': 'bfloat16'}, {**DEVICE, 'scan': 'torch'}, {'name': 'X'}])
def test_latencies_of_different_devices(other):
    check_devices([('a', DEVICE), ('b', dict(DEVICE))])
    check_devices([])
    with pytest.raises(ValueError, match=r'different devices do not share a column \(a on Some CPU.*; b on .*--runs 0'):
        check_devices([('a', DEVICE), ('b', other)])
    with pytest.raises(ValueError, match='different devices'):
        check_devices([('a', DEVICE), ('a', other)])


def test_rows_are_told_by_device():
    said = describe_devices([('a', DEVICE), ('b', OTHER), ('c', DEVICE)])
    first = 'a, c on Some CPU, threads 2, dtype float32, scan cpp'
    assert said == f'{first}; b on Some CPU, threads 4, dtype float32, scan cpp'


def test_a_row_of_this_run_replaces_the_earlier_one():
    rows = make_rows()
    earlier = [replace(row, origin='older') for row in rows]
    assert without_duplicates(earlier + rows) == rows
    assert without_duplicates([*rows, *earlier]) == rows
    assert without_duplicates(earlier + earlier[:1]) == earlier


def test_other_weights_under_the_same_name():
    rows = make_rows()[:2]
    earlier = replace(rows[0], origin='older', checkpoint_hash='other weights')
    joined = with_own_names(without_duplicates([earlier, *rows]))
    assert [row.model for row in joined] == [f'{rows[0].model} (from older)', rows[0].model, rows[1].model]


def test_software():
    assert software_difference(SOFTWARE, SOFTWARE) == ''
    other = replace(SOFTWARE, versions={'torch': '2.4.0', 'mmcv': '2.3.6', 'extra': '1'}, source='def')
    said = software_difference(other, SOFTWARE)
    assert said.startswith('torch 2.4.0 instead of 2.13.0, extra 1 instead of absent, another state of mmssmprune')
