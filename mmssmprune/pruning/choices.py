"""How the names of a `pruning` dict become code: functions and small modules, from inside the package or outside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import nn

from .stage import Stage

# What a choice may ask for, and what it then gets.
NEEDS = {
    'class_token': 'the sequence has at least one class token; other models refuse the choice',
    'sequence': 'convolutions run along the sequence, and then along the tokens at hand as if there were no gaps; '
    'backbones that convolve over the grid refuse the choice',
    'directions': '`LayerTrace.directions`, the output of every direction of the scan, at the layers that are scored',
    'remembered': 'the features that every position had when it was pruned',
    'leader': '`TokenState.leader`, for each position the kept token that resembled it most when it was pruned',
    'pos_embed': "the model's position embedding",
    'score': 'the scores of the importance decide; choices that go by something else refuse `unit`',
    'restoration': 'the restoration shows the cells whose token is gone; others show what their token went into',
    'training': 'its parameters mean nothing before they are trained: loading says so where a checkpoint has none',
}


class Choices(dict):
    """The choices of one kind by name: functions, or nn.Module classes that are made once per stage as ``cls(stage)``.

    Args:
        kind: the key of the `pruning` dict.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self._needs: dict[str, frozenset[str]] = {}

    def register(
        self, choice: Callable | None = None, *, name: str | None = None, needs: Collection[str] = ()
    ) -> Callable:
        """Decorator, with or without arguments: make a choice known under ``name``, else under its own name.

        Registering the same one again (a module imported twice) replaces it.

        Args:
            choice: a function, or a class that takes a `Stage`; parameters and buffers of its own are saved and
                trained with the model.
            name: what configs call it.
            needs: names in `NEEDS`.

        Raises:
            ValueError: the name belongs to another choice, or a need is unknown.
        """
        if choice is None:
            return lambda choice: self.register(choice, name=name, needs=needs)
        name = name or choice.__name__
        needs = frozenset([needs] if isinstance(needs, str) else needs)
        unknown = sorted(needs - NEEDS.keys())
        if unknown:
            raise ValueError(f'{self.kind} {name!r} needs {unknown[0]!r}, which is unknown; needs are {_list(NEEDS)}')
        known = self.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (choice.__module__, choice.__qualname__):
            raise ValueError(
                f'{self.kind} {name!r} is taken by {known.__module__}.{known.__qualname__}; choose another name'
            )
        self[name], self._needs[name] = choice, needs
        return choice

    def needs_of(self, name: str) -> frozenset[str]:
        """What the choice of this name asked for when it was registered."""
        return self._needs.get(name, frozenset())

    def needing(self, need: str) -> list[str]:
        """The names of the choices that asked for something."""
        return [name for name in self if need in self.needs_of(name)]

    def check(self, name: Any) -> None:
        """Raise ValueError unless ``name`` is that of a choice."""
        if not isinstance(name, str) or name not in self:
            raise ValueError(f'pruning.{self.kind} is {name!r}; the names are {_list(self)}')

    def make(self, name: str, stage: Stage) -> Callable:
        """What a stage calls: the function itself, or a module of the stage's own."""
        choice = self[name]
        return choice(stage) if isinstance(choice, type) and issubclass(choice, nn.Module) else choice


def _list(names: Sequence[str] | Collection[str]) -> str:
    return ', '.join(names)
