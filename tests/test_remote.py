"""A bucket as DVC's remote: moto's server speaks S3 on loopback, and checks keys and signatures."""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest

from tests.conftest import Clone
from tools import scratch

pytestmark = pytest.mark.slow
EVERYTHING = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
)
SET_UP_CALLS = 4  # that need no key: those of `server` below


class Server(NamedTuple):
    url: str
    process: "subprocess.Popen[bytes]"


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An S3 server with an empty bucket `team` and a user, whose keys are in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "server").open("w") as log:
        process = subprocess.Popen(
            ["moto_server", "--port", str(port)],
            stdout=log,
            stderr=log,
            env=os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": str(SET_UP_CALLS)},
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while not answers(port):
        assert time.monotonic() < deadline, (tmp_path / "server").read_text()
        time.sleep(0.1)
    anyone = boto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1")
    iam = anyone.client("iam", endpoint_url=url)
    iam.create_user(UserName="member")
    key = iam.create_access_key(UserName="member")["AccessKey"]
    iam.put_user_policy(UserName="member", PolicyName="all", PolicyDocument=EVERYTHING)
    anyone.client("s3", endpoint_url=url).create_bucket(Bucket="team")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    yield Server(url, process)
    process.kill()
    process.wait()


@pytest.fixture
def member(server: Server, finished: Clone, tmp_path: Path) -> Clone:
    """A clone with results, whose remote is the bucket."""
    clone = finished.copy(tmp_path / "member")
    clone.dvc("remote", "add", "--default", "team", "s3://team/cifar")  # as docs/scale.md says
    clone.dvc("remote", "modify", "team", "endpointurl", server.url)
    scratch.commit(clone.folder, "a remote")
    return clone


def another(member: Clone, folder: Path) -> Clone:
    """A fresh clone from git."""
    clone = member.inside("")
    clone.folder = folder
    scratch.git(folder.parent, "clone", "--quiet", str(member.folder), str(folder))
    return clone


def test_what_one_pushes_another_pulls_and_runs_nothing(member: Clone, tmp_path: Path) -> None:
    assert "pushed" in member.dvc("push", "--run-cache")
    assert "Everything is up to date." in member.dvc("push")
    clone = another(member, tmp_path / "another")
    clone.dvc("pull")
    printed = clone.dvc("repro")
    assert "Running stage" not in printed
    assert "Data and pipelines are up to date." in printed
    assert clone.read("models/resnet50.onnx") == member.read("models/resnet50.onnx")
    assert not scratch.git(clone.folder, "status", "--porcelain")


def test_the_run_cache_is_shared(member: Clone, tmp_path: Path) -> None:
    """Also what no commit names: here nothing is locked."""
    assert re.search(
        r"^\d+ runs, \d+ more files", member.run("python", "-m", "tools.push_runs"), re.MULTILINE
    )
    clone = another(member, tmp_path / "another")
    clone.dvc("pull", "--run-cache")
    lock = clone.read("dvc.lock")
    (clone.folder / "dvc.lock").unlink()
    printed = clone.dvc("repro", "--pull")
    assert "Running stage" not in printed
    assert printed.count("is cached - skipping run, checking out outputs") == 6
    assert clone.read("dvc.lock") == lock


def test_wrong_credentials_are_named_and_nothing_is_lost(
    member: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = another(member, tmp_path / "another")
    for wrong in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        with monkeypatch.context() as patch:
            patch.setenv(wrong, "wrong")
            printed = member.dvc("push", status=255)
            assert "(403) when calling the HeadObject operation: Forbidden" in printed
            assert "Traceback" not in printed
            printed = member.run("python", "-m", "tools.push_runs", status=255)
            assert "ERROR: " in printed
            assert "Traceback" not in printed
            printed = clone.dvc("pull", status=1)
            assert "ERROR: failed to connect to s3 (team/cifar/files/md5) - Forbidden" in printed
    assert "Data and pipelines are up to date." in member.dvc("status")
    member.dvc("push")
    clone.dvc("pull")
    assert clone.read("models/resnet50.safetensors") == member.read("models/resnet50.safetensors")


def test_a_dead_server_is_named_and_nothing_is_lost(server: Server, member: Clone) -> None:
    server.process.kill()
    server.process.wait()
    printed = member.dvc("push", status=255)
    assert f'Could not connect to the endpoint URL: "{server.url}/team/cifar' in printed
    assert "Traceback" not in printed
    assert "Data and pipelines are up to date." in member.dvc("status")
