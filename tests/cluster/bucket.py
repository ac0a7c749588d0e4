"""An S3 server on the head of a cluster, which is in no network but the cluster's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cluster.ray_hosts import REPOSITORY, RayHosts

BUCKET = "cluster"
SETTINGS = {
    "AWS_ENDPOINT": "http://10.213.77.1:9000",
    "AWS_ALLOW_HTTP": "true",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}
"""Of every process of the cluster; the first host has the first address."""

_MAKE = """
import os, sys, time, boto3
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT"])
for _ in range(200):
    try:
        client.create_bucket(Bucket=sys.argv[1])
        break
    except Exception:
        time.sleep(0.1)
else:
    sys.exit("no S3 server")
"""

_COPY = """
import sys
from schemas.storage import Store
source, target = Store(sys.argv[1]), Store(sys.argv[2])
for info in source.list():
    target.create(info.path, source.get(info.path))
"""


def start_bucket(cluster: RayHosts) -> None:
    """An empty bucket, for as long as the head lives. The cluster was started with `SETTINGS`."""
    server = [sys.executable, "-m", "moto.server", "--host", "0.0.0.0", "--port", "9000"]
    cluster.head.start(server, variables=cluster.environment(), log=cluster.log("s3"))
    _on_head(cluster, _MAKE, BUCKET)


def copy_of(cluster: RayHosts, url: str, folder: Path) -> Path:
    """All objects below a URL, as files."""
    _on_head(cluster, _COPY, url, str(folder))
    return folder


def _on_head(cluster: RayHosts, program: str, *arguments: str) -> None:
    command = cluster.head.command([sys.executable, "-c", program, *arguments])
    subprocess.run(command, env=cluster.environment(), cwd=REPOSITORY, check=True, timeout=600)
