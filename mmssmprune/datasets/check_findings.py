"""What a look at a data set found, as sentences with counts and first examples."""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES = 3


@dataclass
class Kind:
    """One kind of finding: how often, and the first few places."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """What was found in one part of a data set.

    ``wrong`` is what spoils a training or a test, ``notes`` is what the loaders cope with but a reader may want to
    know. Both map a text with ``{n}`` in the place of the count to what was counted under it. ``class_order`` holds the
    names of COCO's categories in the order in which mmdet numbers them, that of the annotation file.
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self.seen: list[str] = []  # what was looked at, e.g. '5000 images'
        self.wrong: dict[str, Kind] = {}
        self.notes: dict[str, Kind] = {}
        self.class_order: tuple[str, ...] | None = None

    def add(self, text: str, example: str = '', *, note: bool = False) -> None:
        """Count one more place where ``text`` is true."""
        kind = (self.notes if note else self.wrong).setdefault(text, Kind())
        kind.count += 1
        if example and len(kind.examples) < EXAMPLES:
            kind.examples.append(''.join(c if c.isprintable() else ascii(c)[1:-1] for c in example))

    def compare(self, what: str, found: int, published: int | None) -> None:
        """Note how many there are, and whether the published set has as many; None where nobody said."""
        self.seen.append(f'{found} {what}')
        if published is not None and found != published:
            self.add(f'there are {found} {what}, and the published set has {published}')

    def sentences(self, *, notes: bool = False) -> list[str]:
        """One sentence per kind."""
        return [
            text.replace('{n}', str(kind.count)) + (f', e.g. {"; ".join(kind.examples)}' if kind.examples else '')
            for text, kind in (self.notes if notes else self.wrong).items()
        ]
