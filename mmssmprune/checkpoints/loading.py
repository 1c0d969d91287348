"""From checkpoint files into models: all that has to fit does, or a sentence names what does not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from mmssmprune._mmengine import print_log
from mmssmprune.pruning import TokenPruner

from .grids import with_grid, within
from .keys import current_name, extract_state_dict, fit, part_of, unwrap
from .reading import read_checkpoint, weights_of


def load_checkpoint_strict(model: nn.Module, path: str, map_location: str = 'cpu') -> dict[str, Any]:
    """Load a checkpoint into a model, all of it or nothing.

    Args:
        model: Backbone, neck and heads, as built from the config.
        path: A file or an address that mmengine can read.
        map_location: As for ``torch.load``.

    Returns:
        The checkpoint (``meta`` and so on).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds no weights, or fits another architecture.
    """
    checkpoint = read_checkpoint(path, map_location)
    state_dict = extract_state_dict(checkpoint, path)
    check_state_dict(model, state_dict, path)
    from mmengine.runner.checkpoint import load_state_dict  # here: a backbone alone is loaded without mmengine

    load_state_dict(unwrap(model), {name.removeprefix('module.'): value for name, value in state_dict.items()})
    return checkpoint


def check_state_dict(
    model: nn.Module, state_dict: dict[str, Tensor], path: str, *, heads_too: bool = True, resumes: bool = False
) -> None:
    """Make a state dict fit a whole model (see `fit`), refuse one of another architecture, and say what is untrained.

    Args:
        model: The model that is to be filled.
        state_dict: Names to tensors, as stored in the file; position embeddings of another grid are replaced.
        path: The file, for the message.
        heads_too: Neck and heads have to fit too, as for a test or a resumed training. Otherwise only the backbone:
            a fine-tuning may well start with new heads, and its backbone may have modules that it declares as
            ``optional_in_checkpoint``. Keys that only the file has, outside the backbone (an auxiliary head, say),
            are no reason to refuse.
        resumes: A training goes on, which cannot change its grid.

    Raises:
        ValueError: The first few names that do not fit.
    """
    new = () if heads_too else getattr(getattr(unwrap(model), 'backbone', None), 'optional_in_checkpoint', ())
    optional = tuple(f'backbone.{name}' for name in new)
    try:
        difference = fit(model, state_dict, '' if heads_too else 'backbone.', optional, resumes=resumes)
    except ValueError as error:
        raise ValueError(f'checkpoint {path} does not fit the model: {error}') from None
    difference = replace(difference, unexpected=[n for n in difference.unexpected if n.startswith('backbone.')])
    if difference:
        which = _which_variants(within(state_dict, 'backbone.'), getattr(unwrap(model), 'backbone', None))
        raise ValueError(f'checkpoint {path} is of another architecture than the model: {difference}{which}')
    _say_what_is_untrained(unwrap(model), state_dict, f'checkpoint {path}')


def load_pretrained(backbone: nn.Module, path: str, prefix: str | None, optional: tuple[str, ...]) -> None:
    """Load backbone weights from the file ``path``, position embeddings resized to its grid.

    Keys that only the checkpoint has are listed in the log, and refused where the backbone says which there may be and
    these are others. Keys that only the model has must belong to modules named in ``optional``; they keep their initial
    values and are listed too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: shapes differ, or weights are missing or unknown: the checkpoint is of another architecture.
    """
    load_weights(backbone, read_checkpoint(path), path, prefix, optional)


def load_weights(
    backbone: nn.Module, checkpoint: Mapping[str, Any], path: str, prefix: str | None, optional: tuple[str, ...]
) -> None:
    """`load_pretrained` of what has been read from the file ``path``."""
    state = part_of(weights_of(checkpoint), prefix)
    refusal = f'{path} does not fit this {type(backbone).__name__}'
    try:
        difference = fit(backbone, state, optional=optional)
    except ValueError as error:
        raise ValueError(f'{refusal}: {error}') from None
    differing = [f'{shape} in the model'.replace('instead of', 'in the file and') for shape in difference.mismatched]
    if differing or difference.missing:
        what = differing[:3] or [f'{key} is missing' for key in difference.missing[:3]]
        raise ValueError(
            f'{refusal}: {"; ".join(what)} ({len(differing) or len(difference.missing)} in all)'
            f'{_which_variants(state, backbone)}; use a checkpoint of the same arch, and check prefix={prefix!r}'
        )
    unused = backbone.unused_in_checkpoint
    strange = [] if unused is None else [key for key in difference.unexpected if not key.startswith(unused)]
    if strange:
        raise ValueError(f'{refusal}: it holds {", ".join(strange[:3])} ({len(strange)} in all), unknown to the model')
    own, given = backbone.state_dict(), {current_name(key) for key in state}
    held = {key: value for key, value in state.items() if current_name(key) in own}
    backbone.load_state_dict(with_grid(held, backbone.pos_hw), strict=False)
    for what, keys in (
        ('not in the model, left out', [key for key in state if key not in held]),
        ('not in the file, kept as initialised', [key for key in own if key not in given]),
    ):
        if keys:
            print_log(f'{path}: {len(keys)} keys {what}: {", ".join(keys)}', logger='current')
    _say_what_is_untrained(backbone, state, path)


def _which_variants(given: dict[str, Tensor], backbone: nn.Module | None) -> str:
    """The end of a refusal: which published backbones the weights of a file and a model are of, where they show it."""
    from .official.layouts import recognise_architecture  # here: it is what reading seldom needs

    found = [recognise_architecture(state) for state in (given, backbone.state_dict() if backbone else {})]
    if None in found or found[0] == found[1]:
        return ''
    return f'; the file looks like {found[0]}, and the model is {found[1]}'


def _say_what_is_untrained(model: nn.Module, names: Iterable[str], path: str) -> None:
    """Name the choices that mean nothing before they are trained, and whose parameters are not in a file."""
    names = {current_name(name.removeprefix('module.')) for name in names}
    for place, pruner in model.named_modules():
        for choice, parameters in pruner.to_be_trained().items() if isinstance(pruner, TokenPruner) else ():
            absent = [name for name in (f'{place}.{parameter}' for parameter in parameters) if name not in names]
            if absent:
                print_log(
                    f'{path} has no {", ".join(absent)}: pruning.{choice} starts untrained', 'current', logging.WARNING
                )
