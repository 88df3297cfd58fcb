"""Keep credentials out of everything that is tracked: what is masked here reaches neither the spool nor MLflow."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

MASK = "***"
# Shorter values ("1", "false") are no credentials, and masking them would spoil innocent text.
SHORTEST_SECRET = 8
_SECRET_VARIABLE = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|PRIVATE_?KEY")
_NAMES_A_PLACE = re.compile(r"_(PATH|FILE|DIR|URL|URI)$")
# Names of params, not of variables: `cls_token` and `num_tokens` are ours and no secrets.
_SECRET_PARAM = re.compile(
    r"(^|[./_])(secret|password|passwd|api_?key|access_?key|(auth|session|access)_?token)$", re.I
)
_URI_PASSWORD = re.compile(r"(://[^\s:/@'\"]*):[^\s/@'\"]+@")
_SIGNATURE = re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s'\"]+", re.I)


def environment_secrets(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The values of AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_TOKEN, *PASSWORD ..., longest first."""
    values = {
        value
        for name, value in environ.items()
        if _SECRET_VARIABLE.search(name.upper())
        and not _NAMES_A_PLACE.search(name.upper())
        and len(value) >= SHORTEST_SECRET
    }
    written = {form for value in values for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])}
    return tuple(sorted(written, key=lambda value: (-len(value), value)))


def redact(text: str, *, secrets: tuple[str, ...] = ()) -> str:
    """`text` without the given secrets, passwords inside URIs, and signatures of presigned URLs."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return _SIGNATURE.sub(rf"\1{MASK}", _URI_PASSWORD.sub(rf"\1:{MASK}@", text))


def redact_all(value: Any, *, secrets: tuple[str, ...]) -> Any:
    """The same for every string, and under every name that says it is a secret, in nested JSON."""
    if isinstance(value, str):
        return redact(value, secrets=secrets)
    if isinstance(value, Mapping):
        return {
            redact(str(name), secrets=secrets): MASK
            if isinstance(inner, str) and _SECRET_PARAM.search(str(name))
            else redact_all(inner, secrets=secrets)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_all(inner, secrets=secrets) for inner in value]
    return value


def redact_bytes(data: bytes, *, secrets: tuple[str, ...]) -> bytes:
    """The same for a file; what is not text (a PNG) stays as it is."""
    try:
        return redact(data.decode(), secrets=secrets).encode()
    except UnicodeDecodeError:
        return data
