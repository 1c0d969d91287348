"""tools/analysis_tools/visualize_tokens.py on tiny real configs, and the hook in tools/test.py."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from tiny_runs import DET_CONFIG, PRUNING, SEG_CONFIG, write_config

Tool = Callable[..., int]
TOOL = 'analysis_tools/visualize_tokens.py'


def make_files(folder: Path, template: str, data: Path, pruning: dict | None = PRUNING) -> tuple[Path, Path]:
    """A config, and a checkpoint of the dense model with untrained weights."""
    config = write_config(folder / 'tiny.py', template, data, pruning=pruning)
    cfg = Config.fromfile(write_config(folder / 'dense.py', template, data))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    checkpoint = folder / 'dense.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), checkpoint)
    return config, checkpoint


@pytest.fixture
def seg(seg_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    return make_files(tmp_path, SEG_CONFIG, seg_data)


def test_a_folder_and_a_file_become_pictures_and_one_page(seg, seg_data: Path, tool: Tool, tmp_path: Path, capsys):
    folder, single = seg_data / 'images' / 'validation', tmp_path / '0.png'
    Image.new('RGB', (128, 64), (220, 60, 60)).save(single)
    out = tmp_path / 'out'
    options = ('--keep-ratio', 0.25, '--cfg-options', 'model.backbone.pruning.importance=l1')
    assert tool(TOOL, *seg, folder, single, '--out', out, *options) == 0
    names = ['0-2.tokens.png', '0.tokens.png', '1.tokens.png', '2.tokens.png', '3.tokens.png']
    assert sorted(path.name for path in out.iterdir()) == [*names, 'tokens.html']
    assert f'5/5 {out}/0-2.tokens.png' in capsys.readouterr().out
    html = (out / 'tokens.html').read_text()
    embedded = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]
    assert embedded == [(out / name).read_bytes() for name in (names[1], *names[2:], names[0])]
    assert '<td>keep ratio</td><td>0.25</td>' in html and '<td>pruning.importance</td><td>l1</td>' in html
    assert html.count('<td>2 to 3</td><td>9</td><td>25.0</td>') == 4  # of 36 tokens
    assert html.count('<td>2 to 3</td><td>8</td><td>25.0</td>') == 1  # of the 4x8 cells of the wide image
    assert str(seg[1]) in html


def test_detections_are_drawn(det_data: Path, tool: Tool, tmp_path: Path):
    files = make_files(tmp_path, DET_CONFIG, det_data)
    image = tmp_path / 'odd.png'
    Image.new('RGB', (50, 90)).save(image)  # resized to 53x96, padded to 64x96
    assert tool(TOOL, *files, image, '--out', tmp_path / 'out', '--score-thr', 0, '--device', 'cpu') == 0
    assert '<td>1</td><td>24</td><td>17</td>' in (tmp_path / 'out' / 'tokens.html').read_text()
    with Image.open(tmp_path / 'out' / 'odd.tokens.png') as picture:
        assert picture.width == 1792


def test_two_classes_by_a_threshold_are_drawn(seg_data: Path, tool: Tool, tmp_path: Path):
    one_channel = SEG_CONFIG.replace('num_classes=3,', 'num_classes=2, out_channels=1, threshold=0.5,')
    files = make_files(tmp_path, one_channel.replace('use_sigmoid=False', 'use_sigmoid=True'), seg_data)
    image = seg_data / 'images/validation/0.png'
    assert tool(TOOL, *files, image, '--out', tmp_path / 'out') == 0
    assert (tmp_path / 'out/0.tokens.png').is_file()


@pytest.fixture(scope='module')
def odd_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, noise = tmp_path_factory.mktemp('odd_images'), np.random.default_rng(0)

    def save(name: str, *shape: int, **options) -> None:
        Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(folder / name, **options)

    turned = Image.Exif()
    turned[0x0112] = 6  # by a quarter
    save('grey.png', 40, 60)
    save('alpha.png', 40, 60, 4)
    save('turned.jpg', 40, 60, 3, exif=turned)
    save('strip.png', 17, 1700, 3)
    save('na$x^{$me [red] <b>.png', 20, 20, 3)
    return folder


@pytest.mark.parametrize(('template', 'data'), [(SEG_CONFIG, 'seg_data'), (DET_CONFIG, 'det_data')], ids=['seg', 'det'])
def test_odd_images_are_drawn(template: str, data: str, odd_images: Path, tool: Tool, tmp_path: Path, request):
    files = make_files(tmp_path, template, request.getfixturevalue(data))
    state = torch.load(files[1])
    # from elsewhere: names that mean something to matplotlib and HTML, and too few of them; colours that are none
    state['meta'] = dict(dataset_meta=dict(classes=('<script>$\\frac$',), palette=[[300, 'x', None]]))
    torch.save(state, files[1])
    assert tool(TOOL, *files, odd_images, '--out', tmp_path / 'out', '--score-thr', 0.001) == 0
    assert len(list((tmp_path / 'out').glob('*.tokens.png'))) == 5
    html = (tmp_path / 'out/tokens.html').read_text()
    assert '<script' not in html and '[red] &lt;b&gt;.png' in html


def test_an_image_that_the_pipeline_cannot_take_is_told(det_data: Path, tool: Tool, tmp_path: Path, capsys):
    files = make_files(tmp_path, DET_CONFIG, det_data)
    Image.new('RGB', (20, 9000)).save(tmp_path / 'a.png')  # less than a pixel wide where 96 high
    assert tool(TOOL, *files, tmp_path / 'a.png', '--out', tmp_path / 'out') == 2
    assert f'the test pipeline of the config fails on {tmp_path / "a.png"}, 9000x20 pixels' in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to_is_told_first(seg, seg_data: Path, tool: Tool, tmp_path: Path, capsys):
    (tmp_path / 'out').write_text('mine')
    assert tool(TOOL, *seg, seg_data / 'images/validation', '--out', tmp_path / 'out') == 2
    assert f'--out {tmp_path / "out"} cannot be written to' in capsys.readouterr().err
    assert (tmp_path / 'out').read_text() == 'mine'


def test_pictures_do_not_replace_images(seg, tool: Tool, tmp_path: Path, capsys):
    image = tmp_path / 'out' / 'a.png'
    image.parent.mkdir()
    Image.new('RGB', (96, 96)).save(image)
    assert tool(TOOL, *seg, image, '--out', image.parent) == 0
    before = {path.name: path.stat().st_mtime_ns for path in image.parent.iterdir()}
    Image.new('RGB', (96, 96)).save(image.parent / 'b.png')
    Image.new('RGB', (96, 96)).save(image.parent / 'b.tokens.png')
    assert tool(TOOL, *seg, image.parent / 'b.png', image.parent / 'b.tokens.png', '--out', image.parent) == 2
    assert 'holds the image b.tokens.png, which a picture would replace' in capsys.readouterr().err
    assert {name: (image.parent / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (dict(images='none.png'), 'image none.png does not exist'),
        (dict(images='notes.txt'), 'notes.txt is no image that can be read'),
        (dict(checkpoint='none.pth'), 'checkpoint none.pth does not exist'),
        (dict(checkpoint='other.pth'), 'is of another architecture than the model'),
        (dict(config='dense.py'), 'no pruned backbone; add pruning=dict(...)'),
        (dict(config='none.py'), 'config none.py does not exist'),
        (dict(options=['--keep-ratio', 1.5]), '--keep-ratio: a keep ratio is a number above 0 and at most 1, got 1.5'),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else None,
)
def test_bad_input_is_told_in_a_sentence(seg, change, sentence, tool: Tool, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (96, 96)).save('a.png')
    Path('notes.txt').write_text('no image')
    torch.save(dict(state_dict={'backbone.pos_embed': torch.zeros(1, 4, 8)}), 'other.pth')
    given = dict(config=seg[0], checkpoint=seg[1], images='a.png', options=[]) | change
    assert tool(TOOL, given['config'], given['checkpoint'], given['images'], '--out', 'out', *given['options']) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'error: ' in error and sentence in error
    assert not Path('out').exists()


@pytest.mark.parametrize(('template', 'data'), [(SEG_CONFIG, 'seg_data'), (DET_CONFIG, 'det_data')], ids=['seg', 'det'])
def test_the_hook_draws_in_a_test(template: str, data: str, tool: Tool, tmp_path: Path, request):
    config, checkpoint = make_files(tmp_path, template, request.getfixturevalue(data))
    config.write_text(config.read_text() + "custom_hooks = [dict(type='TokenVisualizationHook', max_images=1)]\n")
    assert tool('test.py', config, checkpoint, '--work-dir', tmp_path / 'work') == 0
    (picture,) = (tmp_path / 'work').rglob('vis_image/*.png')
    assert picture.name == 'tokens_00000_0_0.png'


def test_the_hook_says_that_it_draws_nothing_under_augmentation(det_data: Path, tool: Tool, tmp_path: Path, capsys):
    config, checkpoint = make_files(tmp_path, DET_CONFIG, det_data)
    config.write_text(config.read_text() + "custom_hooks = [dict(type='TokenVisualizationHook')]\n")
    assert tool('test.py', config, checkpoint, '--work-dir', tmp_path / 'work', '--tta') == 0
    assert not list((tmp_path / 'work').rglob('vis_image/*.png'))
    assert 'draws nothing: one image alone cannot pass a BoxTTAModel' in capsys.readouterr().out
