"""The stores on which scenarios are played, each started on the loopback interface with an empty bucket in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3

from tests.object_stores import azurite as azure
from tests.object_stores.ceph import ceph_gateway
from tests.s3_server import s3_server

SERVERS = ("ceph", "moto", "azurite")
_BUCKET = "encode-once"


@dataclass(frozen=True)
class Server:
    """A running store.

    Attributes:
        bucket: Its URL.
        settings: What a user has in the environment.
        endpoint_variable: Which of the settings is the server's address.
        secret_variable: Which of them nobody may be told.
        checks_signatures: Whether a wrong secret is refused.
        admin: Sets quotas, where there are any.
    """

    bucket: str
    settings: Mapping[str, str]
    endpoint_variable: str
    secret_variable: str
    checks_signatures: bool = True
    admin: Callable[..., None] | None = None


@contextlib.contextmanager
def served(kind: str, folder: Path) -> Iterator[Server]:
    """Starts one of `SERVERS` and ends it."""
    if kind == "azurite":
        with azure.azurite(folder / "azurite") as endpoint:
            azure.make_container(endpoint, _BUCKET)
            settings = azure.settings(endpoint)
            yield Server(f"az://{_BUCKET}", settings, "AZURITE_BLOB_STORAGE_URL", "AZURE_STORAGE_ACCOUNT_KEY")
    elif kind == "ceph":
        with ceph_gateway(folder / "ceph") as gateway:
            yield _on_s3(gateway.settings, gateway.admin)
    else:
        with s3_server() as endpoint:
            settings = {
                "AWS_ENDPOINT": endpoint,
                "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "s3cr3t-that-must-not-be-told",
                "AWS_REGION": "us-east-1",
            }
            yield _on_s3(settings, None)


def _on_s3(settings: Mapping[str, str], admin: Callable[..., None] | None) -> Server:
    boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        region_name=settings["AWS_REGION"],
    ).create_bucket(Bucket=_BUCKET)
    # moto checks neither signatures nor quotas.
    return Server(f"s3://{_BUCKET}", settings, "AWS_ENDPOINT", "AWS_SECRET_ACCESS_KEY", admin is not None, admin)
