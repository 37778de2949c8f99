"""What went wrong with a request to S3, and whether it is worth another try.

Messages are made of error codes and of the sentences below, never of what the server or a library says: such texts
can repeat request headers, which hold credentials.
"""

from __future__ import annotations

import re
import socket

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from persrep_ray.storage.base import AccessError, ConflictError, NotFoundError, StorageError

# Errors of the local disk, to which a download is written, are not among them.
FAILURES = (boto.BotoCoreError, boto.ClientError, ResponseParserError, HTTPError)

_TRANSIENT_CODES = {
    "ConditionalRequestConflict",  # another conditional write of this key was under way
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
}
_TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}
_ACCESS_CODES = {
    "400",  # answers to HEAD have no body, and their code is the status
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidToken",
    "NoSuchBucket",
    "TokenRefreshRequired",
}
_ACCESS_STATUSES = {301, 307, 308, 401, 403, 501}
_HINTS = {
    "301": "the bucket is in another region",
    "400": "the credentials have expired or the region is wrong",
    "403": "access is denied",
    "AuthorizationHeaderMalformed": "the region is wrong",
    "ExpiredToken": "the credentials have expired",
    "NoSuchBucket": "there is no such bucket",
    "NotImplemented": "the store lacks conditional writes",
    "PermanentRedirect": "the bucket is in another region",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "SignatureDoesNotMatch": "the secret key is wrong",
}
_TRANSIENT_ERRORS: dict[type[Exception], str] = {
    boto.ChecksumError: "the content is damaged",
    boto.FlexibleChecksumError: "the content is damaged",
    boto.IncompleteReadError: "the content is cut off",
    boto.ConnectTimeoutError: "the endpoint cannot be reached in time",
    boto.EndpointConnectionError: "the endpoint cannot be reached",
    boto.ProxyConnectionError: "the proxy cannot be reached",
    boto.ReadTimeoutError: "there is no answer in time",
    boto.ConnectionClosedError: "the connection is closed",
    boto.ResponseStreamingError: "the connection breaks off",
    boto.SSLError: "the encrypted connection fails",
    HTTPError: "the connection breaks off",
    ResponseParserError: "the endpoint's answer is not a valid S3 response",
}


def diagnosis(error: Exception) -> tuple[type[StorageError], str, bool]:
    """(the kind of error, its cause in words, whether the request is worth another try) for one of `FAILURES`."""
    if isinstance(error, boto.ClientError):
        return _answered(error)
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return AccessError, "the endpoint's certificate is not trusted", False
    if isinstance(error, boto.EndpointConnectionError):
        reason = getattr(error.kwargs.get("error"), "__cause__", None)
        if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
            return AccessError, "the endpoint's host name is unknown", False
    for known, cause in _TRANSIENT_ERRORS.items():
        if isinstance(error, known):
            return StorageError, cause, True
    if isinstance(error, boto.NoCredentialsError):
        return AccessError, "no AWS credentials are found", False
    return AccessError, f"the request cannot be made ({type(error).__name__})", False


def _answered(error: boto.ClientError) -> tuple[type[StorageError], str, bool]:
    """The diagnosis of an answer that is an error."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if not re.fullmatch(r"[A-Za-z0-9.]{1,64}", code):
        code = "error"
    cause = f"{code} (HTTP {status})" + (f", {_HINTS[code]}" if code in _HINTS else "")
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUSES:
        return StorageError, cause, True
    if code in _ACCESS_CODES or status in _ACCESS_STATUSES:
        return AccessError, cause, False
    return {404: NotFoundError, 412: ConflictError}.get(status, StorageError), cause, False
