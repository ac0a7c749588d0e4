"""Connections that break, before and after the deed."""

from __future__ import annotations

from unittest import mock

import boto3
import pytest

from schemas.storage import Store
from tests.faulty_proxy import Fault, faulty_proxy
from tests.s3_server import s3_server


@pytest.mark.parametrize("kind", ["reset", "lost"])
def test_a_create_and_a_delete_survive_broken_connections(kind: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
    with s3_server() as endpoint, faulty_proxy(endpoint) as proxy:
        client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
        )
        client.create_bucket(Bucket="resend")
        with mock.patch.dict("os.environ", {**keys, "AWS_ENDPOINT": proxy.url}):
            store = Store("s3://resend/x")
            proxy.faults = [Fault(kind, method="PUT", times=2)]  # type: ignore[arg-type]
            assert store.create("record", b"mine")
            assert not store.create("record", b"other")
            proxy.faults = [Fault(kind, method="PUT", times=1)]  # type: ignore[arg-type]
            assert not store.create("record", b"other")
            proxy.faults = [Fault(kind, method="POST", times=1)]  # type: ignore[arg-type]
            store.delete(["record"])
            assert store.head("record") is None
