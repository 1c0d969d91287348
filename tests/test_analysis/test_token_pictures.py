"""Pictures of tokens: everything in its place over the image, nothing left behind in the model."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from html_outline import Outline
from matplotlib.figure import Figure
from matplotlib.text import Text
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.structures import InstanceData, PixelData
from PIL import Image
from tiny_backbones import DROPPED, VMAMBA_ARCH
from tiny_training import backbone_cfg, build, detector_cfg, segmentor_cfg

from mmssmprune.analysis.token_pictures import figure, page, predictions, sources
from mmssmprune.analysis.token_pictures.observe import Observation, observe
from mmssmprune.analysis.token_pictures.placement import Placement
from mmssmprune.analysis.token_pictures.predictions import draw_prediction
from mmssmprune.models import VMamba

PRUNING = DROPPED | dict(layers=[0, 2], keep_ratio=0.6)
META = dict(classes=('a', 'b', 'c'), palette=[[250, 0, 0], [0, 250, 0], [0, 0, 250]])
LOAD = dict(type='LoadImageFromFile')
KEYS = ('img_path', 'ori_shape', 'img_shape', 'scale_factor')
DET = [LOAD, dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='PackDetInputs', meta_keys=KEYS)]
DET_PADDED = [*DET[:2], dict(type='Pad', size=(96, 64), pad_val=dict(img=(9, 9, 9))), DET[-1]]
SEG = [LOAD, dict(type='Resize', scale=(80, 80), keep_ratio=True), dict(type='PackSegInputs')]
SEG_TWICE = [*SEG[:2], dict(type='ResizeToMultiple', size_divisor=32), SEG[-1]]
SLIDE = dict(mode='slide', crop_size=(32, 32), stride=(24, 24))


def make_model(detector: bool = False, test_cfg: dict | None = None, **pruning) -> torch.nn.Module:
    backbone = backbone_cfg('Vim', pruning=dict(PRUNING, **pruning), final_norm=False)
    cfg = (detector_cfg if detector else segmentor_cfg)(backbone)
    if not detector:
        cfg['data_preprocessor'].update(size=None, size_divisor=16, test_cfg=dict(size_divisor=16))
    else:
        cfg['test_cfg']['max_per_img'] = 10
    cfg['test_cfg'] = test_cfg or cfg['test_cfg']
    return build(Config(dict(model=cfg)).model).eval()


def look(model: torch.nn.Module, steps: list[dict], file: Path) -> Observation:
    pipeline = Compose(steps)
    data = pipeline(dict(img_path=str(file), img_id=0))
    return observe(model, data['inputs'], data['data_samples'], sources.pads(pipeline))


def save(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def noise(path: Path, hw: tuple[int, int] = (50, 90)) -> Path:
    return save(path, np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ('detector', 'steps', 'test_cfg', 'cell'),
    [
        (True, DET, None, (8 * 50 / 36, 8 * 90 / 64)),  # 36x64, padded to 64x64 by the preprocessor
        (True, DET_PADDED, None, (8 * 50 / 36, 8 * 90 / 64)),  # by the pipeline
        (False, SEG, None, (8 * 50 / 44, 8 * 90 / 80)),  # 44x80, padded to 48x80
        (False, SEG_TWICE, None, (8 * 50 / 64, 8 * 90 / 96)),  # 44x80, then 64x96
        (False, SEG, SLIDE, (8 * 50 / 44, 8 * 90 / 80)),
    ],
    ids=['det', 'det_padded', 'seg', 'seg_resized_twice', 'seg_slide'],
)
@pytest.mark.parametrize('corner', ['top left', 'top right', 'bottom left', 'bottom right'])
def test_a_marked_corner_is_under_the_cells_that_see_it(detector, steps, test_cfg, cell, corner, tmp_path: Path):
    model = make_model(detector, test_cfg)
    marked = np.zeros((50, 90), dtype=bool)
    marked[
        slice(40, 50) if 'bottom' in corner else slice(0, 10), slice(0, 10) if 'left' in corner else slice(80, 90)
    ] = 1
    patches: list[torch.Tensor] = []
    model.backbone.patch_embed.register_forward_hook(lambda _, __, out: patches.append(out[0][0].unflatten(0, out[1])))
    features = []
    for level in (0, 255):
        file = save(tmp_path / f'{level}.png', np.repeat((marked * level).astype(np.uint8)[..., None], 3, 2))
        patches.clear()
        seen = look(model, steps, file)
        features.append(patches[: len(seen.records)])  # the pruned passes come first
    assert len(seen.records) == (6 if test_cfg else 1)
    changed = [((a - b).abs().amax(-1) > 1e-4).double().numpy() for a, b in zip(*features, strict=True)]
    painted = seen.placement.paint(changed, (50, 90))
    assert not np.isnan(painted).any()
    assert (painted[marked] > 0).all()
    if not test_cfg:
        assert set(np.unique(painted)) == {0, 1}
    # Beyond the mark: at most the rest of a cell, and the pixel that resizing mixes.
    rows, columns = np.nonzero(painted)
    near = [np.maximum(45 - rows, 0) if 'bottom' in corner else rows, columns if 'left' in corner else 89 - columns]
    reach = [10 + size + 2 for size in cell] if not test_cfg else [10 + 2 * size + 2 for size in cell]
    assert near[0].max() < max(reach[0], 45) and near[1].max() < reach[1]
    assert (painted > 0).mean() < 0.35


def test_overlapping_patches_and_image_borders():
    place = Placement((20, 40), (1.0, 1.0), stride=8, margin=4)
    cells = np.arange(8.0).reshape(2, 4)  # sees 24x40: below the image lies padding
    painted = place.paint([cells], (20, 40))
    assert painted[0].tolist() == [0] * 12 + [1] * 8 + [2] * 8 + [3] * 12
    assert painted[:, 0].tolist() == [0] * 12 + [4] * 8
    assert place.borders(1, 4).tolist() == [4, 12, 20, 28, 36]
    assert Placement((20, 40), (0.5, 0.5), 8).on_image((2, 4)).tolist() == [[True] * 3 + [False], [True] * 3 + [False]]


def test_cells_of_every_stage_lie_where_they_look():
    """VMamba's padded convolutions look at every fourth to thirty-second pixel; its first release at whole patches."""
    padded = VMamba(VMAMBA_ARCH).cell_places
    assert padded == [(4, 0.5), (8, 0.5), (16, 0.5), (32, 0.5)]
    whole = VMamba(dict(VMAMBA_ARCH, patch_embed_version='v1', downsample_version='v1')).cell_places
    assert whole == [(4, 2.0), (8, 4.0), (16, 8.0), (32, 16.0)]
    place = Placement((64, 64), (1.0, 1.0), stride=32, margin=-15.5)
    painted = place.paint([np.arange(4.0).reshape(2, 2)], (64, 64))
    assert painted[0].tolist() == [0] * 16 + [1] * 48
    assert place.borders(1, 2).tolist() == [-15.5, 16.5, 48.5]


@pytest.mark.parametrize('layers', [[1, 2, 3], [2, 4]], ids=['begins pruned', 'inside'])
def test_stages_of_different_grids_in_one_picture(layers: list[int], tmp_path: Path):
    pruning = dict(layers=layers, keep_ratio=0.6)
    backbone = dict(type='mmengine.VMamba', arch=dict(embed_dims=8, depths=(2, 1, 2, 1)), pruning=pruning)
    cfg = segmentor_cfg(backbone)
    cfg['decode_head'].update(in_channels=64, in_index=3)
    cfg['data_preprocessor'].update(size=None, size_divisor=32, test_cfg=dict(size_divisor=32))
    model = build(Config(dict(model=cfg)).model).eval()
    mark = np.zeros((64, 96, 3), dtype=np.uint8)
    mark[:, 64:] = 255
    steps = [LOAD, dict(type='Resize', scale=(96, 64), keep_ratio=True), SEG[-1]]
    seen = look(model, steps, save(tmp_path / 'a.png', mark))
    assert [place.stride for place in seen.placements] == [4, 8, 16, 32]
    for parts in (*seen.prunings, *seen.taps):
        place, kept = seen.placement_of(parts), parts[0].kept[0].numpy()
        assert place.stride * kept.shape[1] == 96
        assert not np.isnan(place.paint([kept], (64, 96))).any()
    drawn = figure.draw_observation(seen, 'a', META)
    titles = [axes.get_title() for axes in drawn.axes]
    assert any('stage 3 (4x6)' in title for title in titles)
    assert 'Prunings' in page.describe('a', seen, figure.to_png(drawn))


def test_windows_are_averaged_and_unknown_cells_stay_blank():
    place = Placement((8, 24), (1.0, 1.0), 8, windows=((0, 0), (0, 8)))
    painted = place.paint([np.array([[1.0, 2.0]]), np.array([[4.0, np.nan]])], (8, 24))
    assert painted[0, ::8].tolist()[:2] == [1, 3]
    assert np.isnan(painted[:, 16:]).all()


def test_pictures_show_each_stage_where_it_is(tmp_path: Path):
    model = make_model()
    seen = look(model, SEG, noise(tmp_path / 'a.png', (48, 80)))
    stage = seen.prunings[1][0]
    assert stage.kept.shape == (1, 6, 10)
    panels = figure.pruning_panels(seen)
    assert [panel.title for panel in panels] == [
        'after layer 0: 36 of 60 kept',
        'after layer 0: score (clip)',
        'after layer 0: cells of a token',
        'after layer 2: 22 of 36 kept',
        'after layer 2: score (clip)',
        'after layer 2: cells of a token',
    ]
    shown, score, blended = (panel.content for panel in panels[3:])
    factor = shown.shape[0] // 48
    image = seen.image.repeat(factor, 0).repeat(factor, 1)
    for row in range(6):
        for column in range(10):
            at = (
                slice(row * 8 * factor, (row + 1) * 8 * factor),
                slice(column * 8 * factor, (column + 1) * 8 * factor),
            )
            if stage.kept[0, row, column]:
                assert np.array_equal(shown[at], image[at])
            else:
                assert np.abs(shown[at].astype(float) - image[at]).mean() > 20
            expected = float(stage.score[0, row, column])
            assert np.array_equal(np.unique(score[at]), [expected], equal_nan=True)
            same = (stage.leader[0] == stage.leader[0, row, column]).repeat_interleave(8, 0).repeat_interleave(8, 1)
            assert np.abs(blended[at] - seen.image[same.numpy()].mean(0)).max() <= 0.5
    assert panels[3].grid[0].tolist() == pytest.approx([i / 6 for i in range(1, 6)])
    assert panels[3].grid[1].tolist() == pytest.approx([i / 10 for i in range(1, 10)])


@pytest.mark.parametrize('detector', [False, True])
def test_dense_and_pruned_are_the_models_own_predictions(detector: bool, tmp_path: Path):
    model = make_model(detector, restoration='zero')
    file = noise(tmp_path / 'a.png')
    data = Compose(DET if detector else SEG)(dict(img_path=str(file), img_id=0))
    batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    with torch.no_grad():
        pruned = model.test_step(batch)[0]
        model.backbone.set_keep_ratio(1.0)
        dense = model.test_step(batch)[0]
    model.backbone.set_keep_ratio(0.6)
    seen = look(model, DET if detector else SEG, file)
    read = (lambda s: s.pred_instances.scores) if detector else (lambda s: s.seg_logits.data)
    assert torch.equal(read(seen.pruned), read(pruned))
    assert torch.equal(read(seen.dense), read(dense))
    assert not torch.equal(read(dense), read(pruned))
    assert seen.keep_ratios == (0.6, 0.6) == model.backbone.pruner.plan.keep_ratios


@pytest.mark.parametrize('detector', [False, True])
def test_random_numbers_go_on_as_before(detector: bool, tmp_path: Path):
    model = make_model(detector, importance='random')
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    seen = look(model, DET if detector else SEG, noise(tmp_path / 'a.png'))
    for sample in (seen.dense, seen.pruned):
        draw_prediction(seen.image, sample, META, score_thr=0.0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def visible_texts(drawn: Figure) -> list[Text]:
    """All but empty ones and numbers beyond the ends of a colour bar."""
    texts = list(drawn.texts)
    for axes in drawn.axes:
        low, high = sorted(axes.get_xlim())
        texts += [axes.title, *(text for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high)]
    return [text for text in texts if text.get_text()]


@pytest.mark.parametrize('hw', [(40, 160), (160, 40)], ids=['wide', 'tall'])
def test_the_figure_and_its_page(hw: tuple[int, int], tmp_path: Path):
    name = '<i>&"one".png'
    seen = look(make_model(), [LOAD, dict(type='PackSegInputs')], noise(tmp_path / 'a.png', hw))
    drawn = figure.draw_observation(seen, name, META)
    png = figure.to_png(drawn)
    assert Image.open(BytesIO(png)).size == figure.to_array(drawn).shape[1::-1]
    assert Image.open(BytesIO(png)).width == round(figure.WIDTH * 140)
    boxes = [(text.get_window_extent(), text.get_text()) for text in visible_texts(drawn)]
    assert {name, 'image', 'after layer 0: score (clip)', 'after layer 3'} < {text for _, text in boxes}
    for box, text in boxes:
        assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1 and box.y0 >= 0 and box.y1 <= drawn.bbox.y1, text
    for (box, text), (other, neighbour) in combinations(boxes, 2):
        assert not box.overlaps(other), (text, neighbour)
    html = page.make_page('Tokens', {'config': name}, [page.describe(name, seen, png)])
    outline = Outline(html)
    assert [link[:22] for link in outline.links] == ['data:image/png;base64,']
    assert name in outline.text and '<i>' not in html
    assert 'http' not in html and 'url(' not in html


def test_the_page_counts_tokens_in_the_padding(tmp_path: Path):
    # 50x90 becomes 36x64 on a grid of 8x8 cells: the lower three rows and no more are padding.
    seen = look(make_model(detector=True, importance='grid', keep_ratio=1.0), DET, noise(tmp_path / 'a.png'))
    html = page.describe('a', seen, b'')
    assert '<tr><td>0</td><td>64</td><td>64</td><td>100.0</td><td>24</td><td>grid</td>' in html
    assert '<tr><td>0 to 3</td><td>64</td><td>100.0</td></tr>' in html


def test_without_a_file_the_input_is_shown():
    model = make_model(detector=True)
    data = torch.zeros(3, 32, 64, dtype=torch.uint8)
    data[0] = 200  # blue
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo=dict(img_shape=(32, 64), ori_shape=(16, 32), scale_factor=(2.0, 2.0), img_id=0))
    seen = observe(model, data, sample)
    assert seen.image.shape == (16, 32, 3)
    assert seen.image[0, 0].tolist() == [0, 0, 200]


def test_a_model_whose_backbone_runs_more_often_than_there_are_windows_is_refused(tmp_path: Path):
    model = make_model()
    extract = model.extract_feat
    model.extract_feat = lambda inputs: (extract(inputs), extract(inputs))[1]
    with pytest.raises(ValueError, match='ran 2 times for one image in 1 windows'):
        look(model, SEG, noise(tmp_path / 'a.png'))


def test_images_are_found_and_named(tmp_path: Path):
    for name in ('b.JPG', 'a.png', 'notes.txt'):
        (tmp_path / name).write_bytes(b'')
    folder, file = str(tmp_path), str(tmp_path / 'b.JPG')
    assert [p.name for p in sources.find_images([file, folder])] == ['b.JPG', 'a.png']
    with pytest.raises(FileNotFoundError, match='holds no image'):
        (tmp_path / 'empty').mkdir()
        sources.find_images([str(tmp_path / 'empty')])


def test_classes_without_a_palette_get_one():
    meta = sources.complete_meta({}, make_model())
    assert meta['classes'] == ['class 0', 'class 1', 'class 2']
    assert len({tuple(colour) for colour in meta['palette']}) == 3


def detections(**parts) -> DetDataSample:
    sample = DetDataSample()
    for name, value in parts.items():
        setattr(sample, name, value)
    return sample


def test_a_panoptic_prediction_is_drawn_by_class():
    labels = torch.full((1, 32, 64), 3)  # 3 classes, so 3 is void
    labels[:, :16, :32], labels[:, 16:, 32:] = 1, 2 + 5 * 1000
    sample = detections(pred_panoptic_seg=PixelData(sem_seg=labels))
    drawn = draw_prediction(np.zeros((32, 64, 3), np.uint8), sample, META)
    height, width = drawn.shape[:2]
    corners = [drawn[y, x].argmax() for y, x in ((4, 4), (height - 4, width - 4))]
    assert corners == [1, 2] and not drawn[4, width - 4].any()
    assert [name for name, _ in predictions.legend_of([sample], META)] == ['b', 'c']


def test_nothing_found_and_masks_without_a_pixel_are_drawn():
    image = np.full((32, 64, 3), 7, np.uint8)
    masks = torch.zeros(2, 32, 64, dtype=torch.bool)
    for count in (0, 2):
        parts = dict(scores=torch.ones(count), labels=torch.arange(count) + 7, bboxes=torch.zeros(count, 4))
        sample = detections(pred_instances=InstanceData(**parts, masks=masks[:count]))
        assert (draw_prediction(image, sample, META) == 7).all()


def test_pictures_of_strips_and_of_huge_images_stay_small():
    for hw in ((3, 3000), (3000, 3), (9000, 40)):
        sample = detections(pred_sem_seg=PixelData(data=torch.zeros(1, *hw)))
        assert max(draw_prediction(np.zeros((*hw, 3), np.uint8), sample, META).shape) <= predictions.LONGEST_SIDE


def test_classes_and_colours_of_a_strangers_file_are_completed():
    meta = predictions.named_and_coloured(dict(classes=['a\nb', 3], palette=[[1, 2, 3], [1, 2, 300], 'red']), 3)
    assert meta['classes'] == ['a b', '3', 'class 2']
    assert meta['palette'][0] == (1, 2, 3) and len(meta['palette']) == 3
    assert all(0 <= part <= 255 for colour in meta['palette'] for part in colour)
    assert predictions.named_and_coloured(dict(classes=None, palette='random')) == dict(classes=[], palette=[])
