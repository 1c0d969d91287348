"""What every backend of the convolution receives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import can_be_read
from ..constants import kept_constant


@kept_constant
def _every_cell(cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cells and slots (1, H*W) of the whole grid."""
    return tuple(torch.arange(cells, dtype=dtype, device=device)[None] for dtype in (torch.int64, torch.int32))


def places_error(name: str, slot_name: str, cells: int) -> ValueError:
    """What is wrong with cells and slots that are not each other's inverse."""
    return ValueError(
        f'{name} must have values from 0 to {cells - 1}, none twice in an image, and {slot_name} the number of the '
        'token at each of these cells and -1 elsewhere'
    )


@dataclass
class ConvInputs:
    """The operands of one convolution.

    Shapes: ``x`` (B, M, C); ``weight`` (C, 1, kh, kw); ``bias`` (C,); ``cells`` (B, M) and ``slot`` (B, H*W) say where
    the tokens are, ``out_cells`` (B, K) and ``out_slot`` (B, H*W) where the outputs are; None where that is every cell
    in raster order. ``top`` and ``left`` lead from an output's cell to the neighbour under the first tap.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    cells: Tensor | None
    slot: Tensor | None
    out_cells: Tensor | None
    out_slot: Tensor | None
    height: int
    width: int
    top: int
    left: int

    @property
    def tensors(self) -> list[Tensor | None]:
        """The operands that have gradients, in the order in which these come back."""
        return [self.x, self.weight, self.bias]

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(B, K, C)."""
        outputs = self.height * self.width if self.out_cells is None else self.out_cells.shape[1]
        return self.x.shape[0], outputs, self.x.shape[2]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The float64 of any operand, else float32: sums of half precision would lose too much."""
        wide = any(t is not None and t.dtype == torch.float64 for t in self.tensors)
        return torch.float64 if wide else torch.float32

    def with_cells(self) -> ConvInputs:
        """The same with all four of them given."""
        if self.cells is not None and self.out_cells is not None:
            return self
        cells, slot = (t.expand(self.x.shape[0], -1) for t in _every_cell(self.height * self.width, self.x.device))
        given = (cells, slot) if self.cells is None else (self.cells, self.slot)
        wanted = (cells, slot) if self.out_cells is None else (self.out_cells, self.out_slot)
        return replace(self, cells=given[0], slot=given[1], out_cells=wanted[0], out_slot=wanted[1])

    def places(self) -> list[tuple[str, Tensor, str, Tensor]]:
        """Where tokens and outputs are, as far as it is given: names and tensors of cells and slots."""
        given = [] if self.cells is None else [('cells', self.cells, 'slot', self.slot)]
        same = self.out_cells is None or (self.out_cells is self.cells and self.out_slot is self.slot)
        return given if same else [*given, ('out_cells', self.out_cells, 'out_slot', self.out_slot)]

    def check_places(self) -> None:
        """Raise ValueError where cells and slots are not each other's inverse, as far as `can_be_read`."""
        for name, cells, slot_name, slot in self.places():
            if not (can_be_read(cells) and can_be_read(slot)):
                continue
            tokens = torch.arange(cells.shape[1])
            in_range = ((cells >= 0) & (cells < slot.shape[1])).all()
            if not in_range or (slot.gather(1, cells.long()) != tokens).any() or (slot >= 0).sum() != cells.numel():
                raise places_error(name, slot_name, slot.shape[1])

    def taps(self) -> Tensor:
        """The weight as (kh*kw, C), contiguous, in the dtype of the computation."""
        return self.weight.detach().flatten(1).t().to(self.compute_dtype).contiguous()

    def adjoint(self, grad_out: Tensor) -> ConvInputs:
        """The convolution that takes ``grad_out`` (B, K, C) to the gradient of x."""
        kh, kw = self.weight.shape[2:]
        return replace(
            self,
            x=grad_out,
            weight=self.weight.flip(2, 3),
            bias=None,
            cells=self.out_cells,
            slot=self.out_slot,
            out_cells=self.cells,
            out_slot=self.slot,
            top=1 - kh - self.top,
            left=1 - kw - self.left,
        )

    def grads(self, dx: Tensor, dweight: Tensor, dbias: Tensor) -> list[Tensor | None]:
        """Gradients as the operands are: ``dweight`` is (C, kh*kw) or shaped as the weight; none for an absent bias."""
        dweight = dweight.reshape(self.weight.shape).to(self.weight.dtype).contiguous()
        return [dx.to(self.x.dtype), dweight, None if self.bias is None else dbias.to(self.bias.dtype)]
