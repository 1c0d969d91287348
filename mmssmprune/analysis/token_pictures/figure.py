"""One figure per image: predictions, every pruning, every tap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from mmssmprune.analysis.escape import one_line

from .observe import Observation
from .placement import Placement
from .predictions import draw_prediction, legend_of

WIDTH, MAX_PANEL_HEIGHT = 12.8, 5.0  # inches
HEADING_HEIGHT, TITLE_HEIGHT, BAR_HEIGHT, LEGEND_ROW, MARGIN = 0.3, 0.22, 0.28, 0.18, 0.09  # inches
LEGEND_COLUMNS, LONGEST_NAME = 6, 22
MAX_ASPECT = 16
LONGEST_TITLE, LONGEST_SIDE = 110, 960  # characters; pixels of a panel's content, more than the panel has
EARLIER, NOW = 0.85, 0.62  # how much of a cell is covered that was pruned before, and that is pruned here
COVER = np.array([18, 20, 28], dtype=float)  # nearly black
EDGE_ON_IMAGE, EDGE_ON_MAP = '#ffd400', '#ff1f3d'  # the one is not in the colour map, the other rarely in an image


@dataclass(frozen=True)
class Panel:
    """What one axes shows: ``content`` is (H, W, 3) uint8 or (H, W) values with a colour bar, NaN left grey."""

    title: str
    content: np.ndarray
    outline: np.ndarray | None = None  # (H, W): a line is drawn around what is above 0.5
    line_width: float = 0.7  # of that line, in points
    grid: tuple[np.ndarray, np.ndarray] | None = None  # where lines go, as shares of height and width


@dataclass(frozen=True)
class Section:
    """Panels under a heading, all of the image's shape, filled in row by row."""

    heading: str
    panels: Sequence[Panel]
    columns: int
    ratio: float  # height of the image by its width
    legend: Sequence[tuple[str, Any]] = ()  # names and colours, below the panels

    @property
    def rows(self) -> int:
        return -(-len(self.panels) // self.columns)

    @property
    def height(self) -> float:
        """Inches, about: the layout shrinks the panels where they are too few."""
        panel = min(WIDTH / self.columns * self.ratio, MAX_PANEL_HEIGHT)
        bar = BAR_HEIGHT if any(panel.content.ndim == 2 for panel in self.panels) else 0.0
        legend = LEGEND_ROW * -(-len(self.legend) // LEGEND_COLUMNS)
        return HEADING_HEIGHT + self.rows * (TITLE_HEIGHT + panel + bar) + legend


def draw_observation(seen: Observation, title: str, dataset_meta: dict[str, Any], score_thr: float = 0.3) -> Figure:
    """The figure; dense and pruned predictions side by side come first.

    Args:
        seen: the image, run.
        title: the heading, e.g. the file's name.
        dataset_meta: classes and palette.
        score_thr: see `draw_prediction`.
    """
    # Of a panel; a strip is drawn wider than it is, so that it can be seen.
    ratio = min(max(seen.image.shape[0] / seen.image.shape[1], 1 / MAX_ASPECT), MAX_ASPECT)
    legend = legend_of((seen.dense, seen.pruned), dataset_meta)
    sections = [
        Section('Predictions', prediction_panels(seen, dataset_meta, score_thr), 3, ratio, legend),
        Section(
            'Kept tokens (other cells are dark, darkest if pruned before), and what they stand for',
            pruning_panels(seen),
            4,
            ratio,
        ),
        Section(
            'Norm of the restored features (red: around cells that still have a token)', tap_panels(seen), 4, ratio
        ),
    ]
    sections = [section for section in sections if section.panels]
    heights = [section.height for section in sections]
    figure = Figure(figsize=(WIDTH, HEADING_HEIGHT + sum(heights)), dpi=140, layout='constrained')
    figure.get_layout_engine().set(w_pad=MARGIN, h_pad=MARGIN / 2)
    FigureCanvasAgg(figure)
    title = one_line(title)
    _head(figure, title if len(title) <= LONGEST_TITLE else f'...{title[3 - LONGEST_TITLE :]}', 12)
    parts = figure.subfigures(len(sections), height_ratios=heights, squeeze=False)
    for part, section in zip(parts.flat, sections, strict=True):
        _draw_section(part, section)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format='png')
    return buffer.getvalue()


def to_array(figure: Figure) -> np.ndarray:
    """The figure as (H, W, 3) uint8, RGB."""
    figure.canvas.draw()
    return np.ascontiguousarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])


def _head(figure: FigureBase, text: str, size: float) -> None:
    figure.suptitle(text, x=0.005, ha='left', fontsize=size, fontweight='bold', parse_math=False)


def _draw_section(figure: SubFigure, section: Section) -> None:
    _head(figure, section.heading, 10)
    places = figure.subplots(section.rows, section.columns, squeeze=False).ravel()
    for axes in places[len(section.panels) :]:
        axes.remove()
    for axes, panel in zip(places, section.panels, strict=False):
        axes.set_box_aspect(section.ratio)
        axes.set_anchor('N')
        shown = _draw_panel(axes, panel)
        if panel.content.ndim == 2:
            share = max(
                0.03, min(0.03 / section.ratio, 0.15)
            )  # of the height: so much that the bar is as wide as it can
            place = dict(location='bottom', fraction=share, aspect=40, pad=0.02, panchor=False)
            bar = figure.colorbar(shown, ax=axes, format='%.3g', **place)
            bar.ax.tick_params(labelsize=7)
            bar.ax.locator_params(nbins=5)
    if section.legend:
        names = [name if len(name) <= LONGEST_NAME else f'{name[: LONGEST_NAME - 3]}...' for name, _ in section.legend]
        patches = [Patch(facecolor=colour, edgecolor='0.3') for _, colour in section.legend]
        place = dict(loc='outside lower left', ncols=LEGEND_COLUMNS, mode='expand', frameon=False, fontsize=8)
        for text in figure.legend(patches, names, **place).get_texts():
            text.set_parse_math(False)


def _draw_panel(axes: Axes, panel: Panel) -> AxesImage:
    height, width = panel.content.shape[:2]
    is_map = panel.content.ndim == 2
    axes.set_title(panel.title, fontsize=8.5, pad=4, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor('0.8')  # where a map has no value
    options = dict(norm=_range_of(panel.content), interpolation='nearest') if is_map else {}
    shown = axes.imshow(panel.content, extent=(0, width, height, 0), aspect='auto', **options)
    if panel.grid is not None:
        style = dict(colors='white', linewidth=0.3, alpha=0.35)
        axes.hlines(panel.grid[0] * height, 0, width, **style)
        axes.vlines(panel.grid[1] * width, 0, height, **style)
    if panel.outline is not None and 0 < (panel.outline > 0.5).mean() < 1:
        middles = np.arange(width) + 0.5, np.arange(height) + 0.5
        colour = EDGE_ON_MAP if is_map else EDGE_ON_IMAGE
        axes.contour(*middles, panel.outline, levels=[0.5], colors=colour, linewidths=panel.line_width)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return shown


def _range_of(values: np.ndarray) -> Normalize:
    known = values[~np.isnan(values)]
    return Normalize(float(known.min()), float(known.max())) if known.size else Normalize(0, 1)


def prediction_panels(seen: Observation, dataset_meta: dict[str, Any], score_thr: float) -> list[Panel]:
    ratio = ' to '.join(f'{ratio:.3g}' for ratio in dict.fromkeys((max(seen.keep_ratios), min(seen.keep_ratios))))
    dense, pruned = (draw_prediction(seen.image, s, dataset_meta, score_thr) for s in (seen.dense, seen.pruned))
    return [
        Panel('image', seen.image),
        Panel('dense: the same weights at keep ratio 1', dense),
        Panel(f'pruned: keep ratio {ratio}', pruned),
    ]


def pruning_panels(seen: Observation) -> list[Panel]:
    canvas, panels = _canvas(seen.image), []
    for windows in seen.prunings:
        place = seen.placement_of(windows)
        line = _line_width(place)
        kept = place.paint([part.kept[0].numpy() for part in windows], canvas.shape[:2])
        candidates = place.paint([part.candidates[0].numpy() for part in windows], canvas.shape[:2])
        grid = _grid(place, windows[0].kept.shape[1:])
        left = sum(int(part.kept.sum()) for part in windows)
        before = sum(int(part.candidates.sum()) for part in windows)
        where = seen.where(windows)
        panels.append(Panel(f'{where}: {left} of {before} kept', _dimmed(canvas, kept, candidates), kept, line, grid))
        if windows[0].score is not None:
            score = place.paint([part.score[0].numpy() for part in windows], canvas.shape[:2])
            panels.append(Panel(f'{where}: score ({windows[0].score_name})', score, kept, line))
        if windows[0].leader is not None:
            leaders = [part.leader[0].numpy() for part in windows]
            panels.append(Panel(f'{where}: cells of a token', _blended(canvas, place, leaders)))
    return panels


def tap_panels(seen: Observation) -> list[Panel]:
    canvas_hw, panels = _canvas(seen.image).shape[:2], []
    for tap in seen.taps:
        place = seen.placement_of(tap)
        norm = place.paint([part.norm[0].numpy() for part in tap], canvas_hw)
        kept = place.paint([part.kept[0].numpy() for part in tap], canvas_hw)
        panels.append(Panel(seen.where(tap), norm, kept, _line_width(place)))
    return panels


def _canvas(image: np.ndarray) -> np.ndarray:
    """The image, made smaller or (by a whole factor) larger so that cells are drawn as finely as the panel shows."""
    longest = max(image.shape[:2])
    if longest > LONGEST_SIDE:
        height, width = (max(round(side * LONGEST_SIDE / longest), 1) for side in image.shape[:2])
        return mmcv.imresize(image, (width, height))
    factor = max(LONGEST_SIDE // 2 // longest, 1)
    return image.repeat(factor, 0).repeat(factor, 1)


def _line_width(place: Placement) -> float:
    """Points: thinner around small cells, which lines would hide."""
    cells_across = place.image_hw[1] * place.scale[1] / place.stride
    return min(max(13 / cells_across, 0.2), 0.7)


def _blended(canvas: np.ndarray, place: Placement, leaders: Sequence[np.ndarray]) -> np.ndarray:
    """The image with one colour for all cells that a token stands for; of windows that overlap the first is shown."""
    blended, bare = canvas.astype(float), np.ones(canvas.shape[:2], dtype=bool)
    for window, leader in zip(place.windows, leaders, strict=True):
        painted = replace(place, windows=(window,)).paint([leader], canvas.shape[:2])
        at = bare & ~np.isnan(painted)
        token = painted[at].astype(int)
        pixels = np.bincount(token).clip(1)
        blended[at] = np.stack([np.bincount(token, canvas[at][:, c]) / pixels for c in range(3)], -1)[token]
        bare &= ~at
    return blended.round().astype(np.uint8)


def _dimmed(canvas: np.ndarray, kept: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    cover = np.nan_to_num((candidates - kept) * NOW + (1 - candidates) * EARLIER)[..., None]
    return (canvas * (1 - cover) + COVER * cover).round().astype(np.uint8)


def _grid(place: Placement, hw_shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Borders of cells as shares of the image; with several windows, whose grids do not fit together, the windows'."""
    if len(place.windows) == 1:
        lines = [place.borders(axis, hw_shape[axis]) for axis in (0, 1)]
    else:
        ends = [[place.borders(axis, hw_shape[axis], i)[[0, -1]] for i in range(len(place.windows))] for axis in (0, 1)]
        lines = [np.unique(end) for end in ends]
    shares = [line / size for line, size in zip(lines, place.image_hw, strict=True)]
    return tuple(share[(share > 0) & (share < 1)] for share in shares)
