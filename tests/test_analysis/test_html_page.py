from __future__ import annotations

from html_outline import Outline

from mmssmprune.analysis import html_page


def test_a_page_is_whole_and_says_what_it_was_given():
    name = '<b>&"x".png'
    parts = [html_page.heading(name), html_page.paragraph(name), html_page.picture(b'\x89PNG', name)]
    parts.append(html_page.table(name, ('a', '<i>'), [(1, name), (None, 0.5)]))
    text = html_page.page(name, parts)
    seen = Outline(text)
    assert seen.links == ['data:image/png;base64,iVBORw==']
    assert '<b>' not in text
    assert seen.text.count(name) == 6  # title, its heading, heading, paragraph, caption, cell
    assert 'None' in seen.text
