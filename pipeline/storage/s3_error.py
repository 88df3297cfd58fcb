"""What S3 and the way to it can refuse, in the words of somebody who can mend it. Never repeats a secret."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3.exceptions
from botocore import exceptions

from pipeline.storage.error import NotFound, StorageError

ABSENT = {"404", "NoSuchKey", "NotFound"}
BROKEN = (exceptions.BotoCoreError, urllib3.exceptions.HTTPError)  # no answer, or not all of it

_PERMISSION = {
    "read": "s3:GetObject",
    "look up": "s3:GetObject and s3:ListBucket",
    "write": "s3:PutObject",
    "list": "s3:ListBucket",
    "remove": "s3:DeleteObject",
}
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REGION = "the bucket is in another region: set AWS_REGION to the bucket's, or AWS_ENDPOINT_URL to its server"
_BUSY = "the server is overloaded or starting: wait, then run again; it continues from what is whole"
_EXPIRED = "the temporary credentials have expired: renew AWS_SESSION_TOKEN and its keys, or use a role"

# What a person can do about the code in S3's answer. {bucket} and {permission} are filled in.
_BY_CODE = {
    "NoSuchBucket": "there is no bucket {bucket!r}: create it, or mend its name",
    "InvalidBucketName": "{bucket!r} cannot be a bucket's name: use 3 to 63 lower-case letters, digits and hyphens",
    "AccessDenied": "these credentials may not do this: allow {permission} on bucket {bucket!r}, or use others",
    "Forbidden": "the credentials are wrong or may not do this: check them, or allow {permission} on {bucket!r}",
    "SignatureDoesNotMatch": "the secret does not belong to the access key: mend AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "InvalidAccessKeyId": "the server does not know this access key: mend AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "ExpiredToken": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "RequestTimeTooSkewed": "this machine's clock is wrong: synchronise it (NTP)",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "PreconditionFailed": "the object was replaced while it was being read: read it again",
    "QuotaExceeded": "the bucket's quota is used up: free some space or raise the quota",
    "InsufficientStorage": "the server's disks are full: free some space or add disks",
    "NotImplemented": "the server lacks this operation: use one that knows conditional and multipart writes",
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InternalError": _BUSY,
}
_BY_STATUS = {
    301: "PermanentRedirect",
    403: "Forbidden",
    412: "PreconditionFailed",
    500: "InternalError",
    501: "NotImplemented",
    503: "ServiceUnavailable",
    507: "InsufficientStorage",
}

_NETWORK = "check AWS_ENDPOINT_URL, that the server is up, and that nothing blocks the way"
# What a person can do when there was no answer. The first class that fits counts.
_BY_CLASS: tuple[tuple[type[Exception], str, str], ...] = (
    (exceptions.NoCredentialsError, "no credentials", f"set {_KEYS}, or AWS_PROFILE, or give the machine a role"),
    (exceptions.PartialCredentialsError, "half of the credentials are missing", f"set both {_KEYS}"),
    (exceptions.ProfileNotFound, "no such profile", "set AWS_PROFILE to one of ~/.aws/config, or unset it"),
    (exceptions.CredentialRetrievalError, "the credentials could not be fetched", "check AWS_PROFILE and its process"),
    (exceptions.EndpointConnectionError, "nothing answers at {endpoint}", _NETWORK),
    (exceptions.ConnectTimeoutError, "nothing answers at {endpoint} in time", _NETWORK),
    (
        exceptions.ProxyConnectionError,
        "the HTTP proxy does not answer",
        "mend HTTPS_PROXY, or put the host in NO_PROXY",
    ),
    (
        exceptions.SSLError,
        "the certificate of {endpoint} is not trusted",
        "set AWS_CA_BUNDLE, or mend AWS_ENDPOINT_URL",
    ),
    (exceptions.ReadTimeoutError, "{endpoint} stopped answering", _BUSY),
    (exceptions.ConnectionClosedError, "{endpoint} closed the connection", _BUSY),
    (exceptions.IncompleteReadError, "{endpoint} kept breaking off", _BUSY),
    (exceptions.HTTPClientError, "{endpoint} kept breaking off", _BUSY),
    (urllib3.exceptions.HTTPError, "{endpoint} kept breaking off", _BUSY),
)


def code(error: exceptions.ClientError) -> str:
    """S3's name for what it refused; made up from the status where the answer had no body (HEAD)."""
    name = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _BY_STATUS.get(status, name) if name not in _BY_CODE and name not in ABSENT else name


@contextmanager
def explained(uri: str, action: str, *, bucket: str, endpoint: str) -> Iterator[None]:
    """Turns a refusal of S3 into the StorageError that says what to do. `action` is a key of the permissions above."""
    try:
        yield
    except exceptions.ClientError as error:
        if code(error) in ABSENT:
            raise NotFound(f"{uri}: cannot {action}: no such object; check the key") from error
        raise StorageError(_answered(error, uri, action, bucket)) from error
    except BROKEN as error:
        raise StorageError(_unanswered(error, uri, action, endpoint)) from error


def _answered(error: exceptions.ClientError, uri: str, action: str, bucket: str) -> str:
    name = code(error)
    details: dict[str, Any] = {"bucket": bucket, "permission": _PERMISSION[action]}
    if name in _BY_CODE:
        return f"{uri}: cannot {action}: {name}; {_BY_CODE[name].format(**details)}"
    message = error.response.get("Error", {}).get("Message", "no message")
    return f"{uri}: cannot {action}: {name}: {message}; see the documentation of the S3 server"


def _unanswered(error: Exception, uri: str, action: str, endpoint: str) -> str:
    for kind, what, remedy in _BY_CLASS:
        if isinstance(error, kind):
            return f"{uri}: cannot {action}: {what.format(endpoint=endpoint)}; {remedy}"
    return f"{uri}: cannot {action}: {type(error).__name__}: {error}; check the AWS_ variables of the environment"
