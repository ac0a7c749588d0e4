"""Where a bucket's credentials come from, beyond what obstore looks for itself.

obstore reads keys from the environment and asks web identity, container and instance services. Profiles (`~/.aws`, SSO,
assumed roles) it leaves to boto3, which is asked only where there is one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_S3 = ("s3://", "s3a://")
_OF_OBSTORE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Any of these, and obstore knows what to do."""


def credential_options(url: str) -> dict[str, Any]:
    """Arguments for `obstore.store.from_url`: a provider of credentials and its region, or nothing.

    Raises:
        ValueError: `AWS_PROFILE` names a profile that is not there, or one without credentials.
    """
    if not url.startswith(_S3) or any(os.environ.get(name) for name in _OF_OBSTORE) or not _has_profile():
        return {}
    # Here, as it takes a third of a second that most have no use for.
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.Session()
        if session.get_credentials() is None:
            if "AWS_PROFILE" in os.environ:
                raise ValueError(f"profile {os.environ['AWS_PROFILE']!r} has no credentials")
            return {}
        return {"credential_provider": Boto3CredentialProvider(session)}
    except BotoCoreError as error:
        raise ValueError(f"AWS profile: {error}") from error


def _has_profile() -> bool:
    """Whether a profile is named, or there are files that could have a default one."""
    if "AWS_PROFILE" in os.environ:
        return True
    files = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
    return any(Path(os.environ.get(name, default)).expanduser().is_file() for name, default in files.items())
