"""Read a page: do tags close, what does it load, what does it say."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {'meta', 'img'}


class Outline(HTMLParser):
    """Checks that tags close in order, and notes links and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ''
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ('src', 'href')]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
