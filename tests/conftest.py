"""What every test may need."""

import contextlib
import dataclasses
import os

import pytest

from tests import torchvision_repair

torchvision_repair.install()


# Storage: a real S3 server, started when the first test asks for it.


@dataclasses.dataclass(frozen=True)
class S3:
    """A running S3 server with an empty bucket. Put `environment` into the environment to use it."""

    url: str
    bucket: str
    environment: dict[str, str] = dataclasses.field(repr=False)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A real S3 server (OpenStack Swift) for the whole session; tests choose prefixes of their own."""
    import boto3.session

    from tests.s3_server import Unsupported, s3_server

    with contextlib.ExitStack() as stack:
        try:
            endpoint = stack.enter_context(s3_server(tmp_path_factory.mktemp("s3")))
        except Unsupported as error:
            pytest.skip(f"NO S3 SERVER, its tests do not run: {error}")
        environment = {
            "AWS_ENDPOINT_URL": endpoint.url,
            "AWS_ACCESS_KEY_ID": endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",  # whatever the developer has configured stays out
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        with pytest.MonkeyPatch.context() as patch:
            _enter_environment(patch, environment)
            boto3.session.Session().client("s3").create_bucket(Bucket="tests")
        yield S3(endpoint.url, "tests", environment)


@pytest.fixture
def s3_environment(s3, monkeypatch):
    """The S3 server, and the environment of this test set so that pipeline.storage finds it."""
    _enter_environment(monkeypatch, s3.environment)
    return s3


def _enter_environment(patch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in environment.items():
        patch.setenv(name, value)
