"""A model card's Markdown as HTML that can hold no script, no frame, and nothing that is fetched from elsewhere."""

from __future__ import annotations

from typing import Any, Final

from markdown_it import MarkdownIt

_SHIFT: Final = 3  # the page and the tab have the levels above


def as_html(text: str) -> str:
    """The card for the inside of the page.

    HTML in it is shown as text, a picture becomes a link to it, links lead to http and https alone and tell the other
    side nothing; a heading is three levels down.
    """
    parser = MarkdownIt("js-default", {"html": False, "linkify": False}).disable("image")
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + _SHIFT)}"
        _rest_links(token)
    return parser.renderer.render(tokens, parser.options, {})


def _rest_links(token: Any) -> None:
    for inner in token.children or ():
        if inner.type == "link_open":
            if not str(inner.attrGet("href")).startswith(("http://", "https://")):
                inner.attrs = {}
                continue
            inner.attrSet("rel", "noopener noreferrer")
            inner.attrSet("target", "_blank")
