"""The HTML pages. Each is a single file, and its policy only allows its inline script and style, by their hashes."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from fastapi import Response

_FOLDER = Path(__file__).parent / "page"
_INLINE = re.compile(rb"<(script|style)[^>]*>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page and its Content-Security-Policy."""

    content: bytes
    policy: str

    @classmethod
    def load(cls, name: str) -> Page:
        """The page `name` of the package."""
        content = (_FOLDER / name).read_bytes()
        hashes: dict[bytes, list[str]] = {b"script": [], b"style": []}
        for kind, inline in _INLINE.findall(content):
            digest = base64.b64encode(hashlib.sha256(inline).digest()).decode()
            hashes[kind].append(f"'sha256-{digest}'")
        policy = (
            f"default-src 'none'; script-src {' '.join(hashes[b'script'])}; style-src {' '.join(hashes[b'style'])}; "
            "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return cls(content, policy)

    def response(self) -> Response:
        headers = {"Content-Security-Policy": self.policy, "Cache-Control": "no-cache"}
        return Response(self.content, media_type="text/html", headers=headers)
