"""The keys of an S3 account, and what is signed with them."""

from __future__ import annotations

import configparser
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from ailurus.protocol.errors import Code
from ailurus.regular import open_regular
from pilot.ports import JobError

Sign = Callable[[str, str, dict[str, str]], Mapping[str, str]]


def signer(keys_file: str, region: str) -> Sign:
    """What adds a signature to a request, if there are keys. Raises JobError, ImportError."""
    if not keys_file:
        return lambda method, target, headers: headers
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    class Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
        """It signs no body: that would read each file once more."""

        def payload(self, request: Any) -> str:
            del request
            return "UNSIGNED-PAYLOAD"

    ours = Signer(Credentials(*keys(keys_file)), "s3", region)

    def sign(method: str, target: str, headers: dict[str, str]) -> Mapping[str, str]:
        request = AWSRequest(method, target, headers=headers)
        ours.add_auth(request)
        return dict(request.headers.items())

    return sign


def keys(path: str) -> tuple[str, str]:
    """The access key and the secret of a file that is nobody else's. Raises JobError."""
    try:
        with os.fdopen(open_regular(os.path.realpath(path)), encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            found = configparser.ConfigParser(interpolation=None)
            found.read_file(file)
        pair = found["default"]["aws_access_key_id"], found["default"]["aws_secret_access_key"]
    except (OSError, KeyError, ValueError, configparser.Error) as error:
        raise JobError(
            Code.SERVICE_UNAVAILABLE,
            f"the site's keys_file {path} cannot be read ({type(error).__name__})",
            remedy="write [default] with aws_access_key_id and aws_secret_access_key",
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise JobError(
            Code.SERVICE_UNAVAILABLE,
            f"the site's keys_file {path} can be read by others than its owner",
            remedy=f"chmod 600 {path}",
            transient=False,
        )
    return pair
