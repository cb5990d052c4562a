"""Documents of headings, tables and figures, written as Markdown, as one HTML page of its own, or as a part of a page."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """What a reader runs to get the same."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure; ``name`` is its file's, ``svg`` its text."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The same figure of two systems, side by side; None where one has none."""

    first: Picture | None
    second: Picture | None


Block = Heading | Text | Command | Table | Picture | Pair


def pictures(blocks: Sequence[Block]) -> Iterator[Picture]:
    """Every figure, those of pairs too."""
    for block in blocks:
        if isinstance(block, Picture):
            yield block
        elif isinstance(block, Pair):
            yield from filter(None, (block.first, block.second))


def as_markdown(blocks: Sequence[Block], folder: str) -> str:
    """The blocks in Markdown; figures are files of ``folder``, which lies beside it."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {text}")
            case Text(text):
                parts.append(text)
            case Command(text):
                parts.append(f"```bash\n{text}\n```")
            case Table(header, rows):
                lines = [header, ["---"] * len(header), *rows]
                parts.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines))
            case Picture() | Pair():
                parts += [f"![{picture.caption}]({folder}/{picture.name}.svg)" for picture in pictures([block])]
    return "\n\n".join(parts) + "\n"


_CSS: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto;margin:1rem 0}"
    "td,th{border:1px solid #c9d6df;padding:.3rem .6rem;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}th{background:#eef3f6}"
    "pre{background:#eef3f6;padding:.8rem;overflow-x:auto}figure{margin:1rem 0}figcaption{color:#52606d}"
    "svg{max-width:100%;height:auto}.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:0 1rem}"
)


def as_html(blocks: Sequence[Block]) -> str:
    """The blocks as one page that needs no other file and asks no host for anything."""
    titles = [block.text for block in blocks if isinstance(block, Heading) and block.level == 1]
    title = html.escape(titles[-1] if titles else "Evaluation")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_CSS}</style></head><body>{as_fragment(blocks)}</body></html>\n"
    )


def as_fragment(blocks: Sequence[Block], top: int = 1) -> str:
    """The blocks as HTML for the inside of a page, where the first level of headings is ``top``."""
    parts = []
    for number, block in enumerate(blocks):
        match block:
            case Heading(text, level):
                parts.append(f"<h{level + top - 1}>{html.escape(text)}</h{level + top - 1}>")
            case Text(text):
                parts.append(f"<p>{html.escape(text)}</p>")
            case Command(text):
                parts.append(f'<pre tabindex="0"><code>{html.escape(text)}</code></pre>')
            case Table(header, rows):
                head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
                body = "".join(
                    "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
                )
                parts.append(f'<table tabindex="0"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')
            case Picture():
                parts.append(_figure(block, f"f{number}-"))
            case Pair(first, second):
                sides = [_figure(side, f"f{number}{letter}-") for side, letter in ((first, "a"), (second, "b")) if side]
                parts.append(f'<div class="pair">{"".join(sides)}</div>')
    return "".join(parts)


def _figure(picture: Picture, prefix: str) -> str:
    # Ids of several figures in one page must differ.
    own = picture.svg.replace('id="', f'id="{prefix}')
    own = own.replace('href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")
    caption = html.escape(picture.caption, quote=True)
    own = own.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
    return f"<figure>{own}<figcaption>{caption}</figcaption></figure>"
