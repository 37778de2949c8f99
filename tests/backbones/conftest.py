from __future__ import annotations

from helpers.s3 import s3, s3_proxy

__all__ = ["s3", "s3_proxy"]
