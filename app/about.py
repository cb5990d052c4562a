"""What the project promises and what it does not, readable in the app itself: ``SAFETY.md`` as a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "SAFETY.md"
_PAGE: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>MultiMood: safety</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72ch; margin: 0 auto; padding: 16px; }} * {{ overflow-wrap: anywhere; }}
h1, h2 {{ line-height: 1.25; }} code {{ font-size: 13px; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ border: 1px solid #8888; padding: 4px 8px; text-align: left; }}</style></head><body>{body}</body></html>"""


def about_routes() -> list[BaseRoute]:
    """The page's route."""
    return [Route("/multimood/about/safety", _safety, methods=["GET"])]


def _safety(request: Request) -> Response:
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(safety_page(), headers=headers, media_type="text/html")


def safety_page() -> str:
    """``SAFETY.md`` as a page of its own; each heading can be linked to by its words."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(DOCUMENT.read_text(encoding="utf-8"))
    return _PAGE.format(body=re.sub(r"<h2>(.*?)</h2>", lambda m: f'<h2 id="{_anchor(m[1])}">{m[1]}</h2>', body))


def _anchor(heading: str) -> str:
    return re.sub(r"\W+", "-", heading.lower()).strip("-")
