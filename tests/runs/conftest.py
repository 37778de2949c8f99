"""What the tests of runs share."""

from helpers.s3 import s3, s3_proxy

__all__ = ["s3", "s3_proxy"]
