"""A two-stage detector that always finds as many proposals as it may, so that its RoI heads cost the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from mmssmprune.analysis.inputs import count_proposals


def full_proposals(model: nn.Module):
    """Context in which a two-stage detector always finds ``test_cfg.rpn.max_per_img`` proposals.

    The cost of RoI heads is proportional to the number of proposals, which depends on image and weights; at the
    configured maximum the FLOPs and the time of two models can be compared. Models without a region proposal network
    pass unchanged.
    """
    number = count_proposals(model)
    return nullcontext() if number is None else _fixed_proposals(model.rpn_head, number)


@contextmanager
def _fixed_proposals(rpn_head: nn.Module, number: int) -> Iterator[None]:
    predict = rpn_head.predict

    def predict_fixed(x, batch_data_samples, *args, **kwargs):
        results = predict(x, batch_data_samples, *args, **kwargs)
        return [_fill_up(r, number, s.img_shape) for r, s in zip(results, batch_data_samples, strict=True)]

    rpn_head.predict = predict_fixed
    try:
        yield
    finally:
        del rpn_head.predict


def _fill_up(proposals, number: int, img_shape: tuple[int, int]):
    """Repeat proposals until there are ``number``; with none at all, the whole image stands in."""
    if len(proposals) == 0:
        height, width = img_shape[:2]
        proposals = type(proposals)(bboxes=proposals.bboxes.new_tensor([[0, 0, width, height]]))
    index = torch.arange(number, device=proposals.bboxes.device) % len(proposals)
    return proposals[index]
