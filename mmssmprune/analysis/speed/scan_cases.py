"""Operands and contestants of the scan benchmark: our operator by each backend, and the official way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops import available_backends, multi_scan
from mmssmprune.ops.scan import mamba_ssm
from mmssmprune.pruning.kept_tokens import KeptTokens
from mmssmprune.pruning.scan_order import ScanOrder, line_scan, sequence_scan, snake_scan

from .command_line import DTYPES


class Family(NamedTuple):
    """What the scan of a mixer is like.

    Attributes:
        directions, dim, d_state: of a mixer.
        own: whether each direction has parameters of its own.
        patch: pixels from token to token.
        lines: the walk is VMamba's: rows and columns, one input, no gate.
    """

    directions: int
    dim: int
    own: bool
    d_state: int = 16
    patch: int = 16
    lines: bool = False


# Channels inside the mixers of VMamba's first stage; from stage to stage they double and the grid halves.
_VMAMBA = {'vmamba-t': 96, 'vmamba-s': 192, 'vmamba-b': 256}
# The names that stand for several families.
STAGES = {name: tuple(f'{name}-stage{i}' for i in (1, 2, 3, 4)) for name in _VMAMBA}
FAMILIES = {
    'plain-mamba-l1': Family(4, 384, False),
    'plain-mamba-l2': Family(4, 768, False),
    'plain-mamba-l3': Family(4, 896, False),
    'vim-t': Family(2, 384, True),
    'vim-s': Family(2, 768, True),
    'vim-b': Family(2, 1536, True),
} | {
    stage: Family(4, _VMAMBA[name] * 2**i, True, d_state=1, patch=4 * 2**i, lines=True)
    for name, stages in STAGES.items()
    for i, stage in enumerate(stages)
}
OFFICIAL = 'official'  # among the names of contestants
# Beyond so many states the naive loop takes seconds per call on a CPU; beyond so many steps it does on a GPU.
NAIVE_STATES, NAIVE_STEPS = 30_000_000, 400
PARAMETERS = ('A', 'D', 'delta_bias', 'direction_B')
Kernel = Callable[..., Tensor]
# What is timed, and the tensors whose gradients it has.
Contestant = tuple[Callable[[], Tensor], list[Tensor]]


@dataclass(frozen=True)
class ScanCase:
    """A mixer's scan: family, image (H, W) in pixels, batch, share of the tokens that are kept."""

    family: str
    image: tuple[int, int]
    batch: int
    kept: float = 1.0

    @property
    def hw_shape(self) -> tuple[int, int]:
        """The grid of patches; the image is padded to whole ones."""
        patch = FAMILIES[self.family].patch
        return -(-self.image[0] // patch), -(-self.image[1] // patch)

    @property
    def tokens(self) -> int:
        """How many are scanned."""
        return max(1, round(self.kept * self.hw_shape[0] * self.hw_shape[1]))

    @property
    def states(self) -> int:
        """Numbers in all states of all steps, by which the cost of the naive loop is told beforehand."""
        family = FAMILIES[self.family]
        return self.batch * family.directions * family.dim * family.d_state * self.tokens

    @property
    def path(self) -> ScanOrder:
        """The walks of the family over this grid."""
        height, width = self.hw_shape
        if FAMILIES[self.family].lines:
            return line_scan(height, width)
        return snake_scan(height, width) if FAMILIES[self.family].directions == 4 else sequence_scan(height * width)


def parse_cases(text: str) -> list[ScanCase]:
    """'plain-mamba-l1:224x224:64' -> its case, 'vmamba-t:224x224:64' -> one per stage.

    Raises:
        ValueError: it is no shape; says what would be right.
    """
    match = re.fullmatch(r'([\w-]+):([1-9]\d*)x([1-9]\d*):([1-9]\d*)', text)
    families = STAGES.get(match[1], (match[1],)) if match else ()
    if not families or families[0] not in FAMILIES:
        names = [name for name in FAMILIES if '-stage' not in name]
        raise ValueError(
            f'{text!r} is no shape; write FAMILY:HEIGHTxWIDTH:BATCH, as plain-mamba-l1:224x224:64, with one of '
            f'{", ".join([*names, *STAGES])}, or a stage of the last ones such as {STAGES["vmamba-t"][2]}'
        )
    return [ScanCase(family, (int(match[2]), int(match[3])), int(match[4])) for family in families]


def make_operands(case: ScanCase, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Random leaves of `multi_scan`, parameters in float32 as autocast leaves them, and its other arguments.

    Step sizes and decay rates are those that the models start from, and the kept cells are drawn per image.
    """
    family = FAMILIES[case.family]
    generator = torch.Generator().manual_seed(0)
    sets, batch, tokens, dim = family.directions if family.own else 1, case.batch, case.tokens, family.dim

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    leaves = {
        'u': draw(1 if family.lines else sets, batch, tokens, dim),
        'delta': draw(sets, batch, tokens, dim),
        'A': -torch.arange(1.0, family.d_state + 1).repeat(sets, dim, 1),
        'B': draw(sets, batch, tokens, family.d_state),
        'C': draw(sets, batch, tokens, family.d_state),
        'D': torch.ones(sets, dim),
        **({} if family.lines else {'z': draw(batch, tokens, dim)}),
        'delta_bias': draw(sets, dim) - 4,
    }
    if not family.own:
        leaves['direction_B'] = draw(5, family.d_state)
    options: dict[str, Any] = {'param_order': 'scan' if family.own else 'raster'}
    if case.kept < 1:
        cells = case.hw_shape[0] * case.hw_shape[1]
        index = torch.rand(batch, cells, generator=generator).topk(tokens).indices.sort().values
        walk = case.path.over(KeptTokens(index, cells))
        options |= {'gap': walk.gap}
        if family.lines or not family.own:
            options |= {'order': walk.order}
        if not family.own:
            options |= {'move': walk.move}
    elif family.lines or not family.own:
        options |= {'hw_shape': case.hw_shape, 'walk': 'lines' if family.lines else 'snakes'}
    leaves = {
        name: t.to(device, torch.float32 if name in PARAMETERS else dtype).requires_grad_()
        for name, t in leaves.items()
    }
    return leaves, {name: t.to(device) if isinstance(t, Tensor) else t for name, t in options.items()}


def contestants(
    case: ScanCase, device: torch.device, dtype: torch.dtype, names: Sequence[str] | None
) -> dict[str, Contestant]:
    """Backends by name, all of them unless named, and the official way around mamba-ssm's kernel, for dense scans."""
    leaves, options = make_operands(case, device, dtype)
    calls = {
        name: ours(leaves, options, name)
        for name in available_backends(device)
        if (not names or name in names) and (name != 'naive' or _is_for_naive(case, device))
    }
    kernel = official_kernel(device)
    if kernel and case.kept == 1 and (not names or OFFICIAL in names):
        calls[OFFICIAL] = official(case, leaves, kernel)
    return calls


def _is_for_naive(case: ScanCase, device: torch.device) -> bool:
    """Whether the naive loop takes less than minutes for a case."""
    return case.states <= NAIVE_STATES if device.type == 'cpu' else case.tokens <= NAIVE_STEPS


def ours(leaves: dict[str, Tensor], options: dict[str, Any], backend: str) -> Contestant:
    """The scan by one of our backends."""
    return lambda: multi_scan(**leaves, **options, backend=backend), list(leaves.values())


def official_kernel(device: torch.device) -> Kernel | None:
    """mamba-ssm's ``selective_scan_fn``, or None where it is not installed or does not run."""
    return mamba_ssm.load() if device.type == 'cuda' else None


def official(case: ScanCase, leaves: dict[str, Tensor], kernel: Kernel) -> Contestant:
    """The dense scan as the official models run it: per direction permute, call the kernel, permute back; then sum.

    Permutations are made once beforehand, as there. PlainMamba gates the sum, Vim each direction, VMamba none.
    """
    order, move = (None if t is None else t.to(leaves['u'].device) for t in (case.path.order, case.path.move))
    inverse = order.argsort(-1)
    family = FAMILIES[case.family]
    run = _official_lines if family.lines else _official_sequences if family.own else _official_snakes
    return lambda: run(leaves, order, inverse, move, kernel), list(leaves.values())


def _channels_first(*sequences: Tensor) -> list[Tensor]:
    return [x.transpose(1, 2).contiguous() for x in sequences]


def _official_snakes(leaves: dict[str, Tensor], order: Tensor, inverse: Tensor, move: Tensor, kernel: Kernel) -> Tensor:
    u, delta, A, B, C, D, bias = (leaves[n][0] for n in ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias'))
    ys = []
    for way, back, moves in zip(order, inverse, move, strict=True):
        along = _channels_first(u[:, way], delta, (B + leaves['direction_B'][moves]).to(B.dtype), C)
        y = kernel(*along[:2], A, *along[2:], D, None, bias, True)
        ys.append(y.transpose(1, 2)[:, back])
    return sum(ys) * F.silu(leaves['z'])


def _official_sequences(
    leaves: dict[str, Tensor], order: Tensor, inverse: Tensor, move: Tensor, kernel: Kernel
) -> Tensor:
    (z,) = _channels_first(leaves['z'])
    ys = []
    for s in range(len(order)):
        turn = (lambda x: x.flip(-1)) if s else (lambda x: x)
        u, delta, B, C = (turn(x) for x in _channels_first(*(leaves[n][s] for n in ('u', 'delta', 'B', 'C'))))
        A, D, bias = (leaves[n][s] for n in ('A', 'D', 'delta_bias'))
        ys.append(turn(kernel(u, delta, A, B, C, D, turn(z), bias, True)))
    return sum(ys).transpose(1, 2)


def _official_lines(leaves: dict[str, Tensor], order: Tensor, inverse: Tensor, move: None, kernel: Kernel) -> Tensor:
    ys = []
    for s, (way, back) in enumerate(zip(order, inverse, strict=True)):
        ordered = (x[:, way] for x in (leaves['u'][0], *(leaves[n][s] for n in ('delta', 'B', 'C'))))
        u, delta, B, C = _channels_first(*ordered)
        A, D, bias = (leaves[n][s] for n in ('A', 'D', 'delta_bias'))
        ys.append(kernel(u, delta, A, B, C, D, None, bias, True).transpose(1, 2)[:, back])
    return sum(ys)


def forward(contestant: Contestant) -> Callable[[], None]:
    """The call without gradients."""
    call, _ = contestant

    def run() -> None:
        with torch.no_grad():
            call()

    return run


def forward_backward(contestant: Contestant) -> Callable[[], None]:
    """The call, and the gradients of its tensors for a gradient of ones."""
    call, leaves = contestant

    def run() -> None:
        with torch.enable_grad():
            out = call()
            torch.autograd.grad(out, leaves, torch.ones_like(out))

    return run


def calls_to_weigh(image: Sequence[int], contestant: str, dtype: str, **case: Any) -> Iterator[Callable[[], None]]:
    """A contestant's forward and backward on a CPU, of a small case and of the wanted one."""
    wanted = ScanCase(image=tuple(image), **case)
    for measured in (replace(wanted, image=(32, 48), batch=1), wanted):
        yield forward_backward(contestants(measured, torch.device('cpu'), DTYPES[dtype], [contestant])[contestant])
