"""What S3 refuses, said so that somebody can mend it, and without a secret."""

import socket

import pytest

from pipeline import storage
from tests.fault_proxy import Fault, fault_proxy

SECRET = "Xq7-not-to-be-seen"


@pytest.fixture
def environment(s3_environment, monkeypatch):
    """Changes the environment; one attempt per request, since botocore waits for seconds between attempts."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def change(**variables: str | None) -> str:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        return s3_environment.uri

    return change


def refusal(root: str) -> str:
    with pytest.raises(storage.StorageError) as caught:
        storage.check_writable(root)
    message = str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:  # a traceback shows the causes too
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__
    return message


def test_a_missing_bucket(environment):
    environment()
    message = refusal("s3://no-such-bucket/runs")
    assert message.startswith("s3://no-such-bucket/runs/")
    assert message.endswith(
        "cannot write: NoSuchBucket; there is no bucket 'no-such-bucket': create it, or mend its name"
    )
    for act in (storage.read, storage.listing):
        with pytest.raises(storage.StorageError, match="there is no bucket 'no-such-bucket'"):
            act("s3://no-such-bucket/runs")


def test_a_wrong_secret(environment):
    root = environment(AWS_SECRET_ACCESS_KEY=SECRET)
    assert "SignatureDoesNotMatch; the secret does not belong to the access key: mend AWS_SECRET" in refusal(root)
    for act in (storage.exists, storage.size):  # HEAD: an answer without a reason
        with pytest.raises(storage.StorageError, match="cannot look up: Forbidden; the credentials are wrong or may"):
            act(f"{root}/file")


def test_an_unknown_access_key(environment):
    root = environment(AWS_ACCESS_KEY_ID="nobody:here")  # which Swift takes for a wrong secret
    assert "SignatureDoesNotMatch; the secret does not belong to the access key" in refusal(root)


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "InvalidAccessKeyId", "the server does not know this access key: mend AWS_ACCESS_KEY_ID"),
        (403, "AccessDenied", "these credentials may not do this: allow s3:PutObject on bucket 'tests'"),
        (403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
        (400, "ExpiredToken", "the temporary credentials have expired"),
        (403, "QuotaExceeded", "the bucket's quota is used up"),
        (507, "InsufficientStorage", "the server's disks are full"),
        (501, "NotImplemented", "the server lacks this operation"),
        (503, "SlowDown", "the server is overloaded"),
        (418, "Teapot", "see the documentation of the S3 server"),
    ],
)
def test_what_our_server_never_refuses(environment, s3, status, code, remedy):
    with fault_proxy(s3.url) as proxy:
        root = environment(AWS_ENDPOINT_URL=proxy.url)
        proxy.inject(Fault("refuse", match="PUT", status=status, code=code))
        message = refusal(root)
    assert f"cannot write: {code}" in message
    assert f"; {remedy}" in message


def test_no_credentials(environment):
    root = environment(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in refusal(root)


def test_half_of_the_credentials(environment):
    assert "half of the credentials are missing; set both" in refusal(environment(AWS_SECRET_ACCESS_KEY=None))


def test_an_unknown_profile(environment):
    assert "no such profile; set AWS_PROFILE to one of" in refusal(environment(AWS_PROFILE="nobody"))


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"])
def test_a_line_break_behind_a_credential(environment, name):
    assert refusal(environment(**{name: f"{SECRET}\n"})).startswith(f"{name}: has a blank or a line break in it")


def test_a_server_that_is_down(environment):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    message = refusal(environment(AWS_ENDPOINT_URL=url))
    assert f"cannot write: nothing answers at {url}; check AWS_ENDPOINT_URL, that the server is up" in message


def test_a_host_that_does_not_exist(environment):
    message = refusal(environment(AWS_ENDPOINT_URL="http://no-such-host.invalid:9000"))
    assert "nothing answers at http://no-such-host.invalid:9000" in message


def test_an_endpoint_that_is_no_url(environment):
    assert "AWS_ENDPOINT_URL: not the URL of a server" in refusal(environment(AWS_ENDPOINT_URL="localhost:9000"))


def test_a_password_in_the_endpoint(environment):
    root = environment(AWS_ENDPOINT_URL=f"http://user:{SECRET}@127.0.0.1:9000")
    assert "AWS_ENDPOINT_URL: holds a user name or password; put them in AWS_ACCESS_KEY_ID" in refusal(root)


def test_plain_http_spoken_to_as_tls(environment, s3):
    message = refusal(environment(AWS_ENDPOINT_URL=s3.url.replace("http:", "https:")))
    assert "is not trusted; set AWS_CA_BUNDLE, or mend AWS_ENDPOINT_URL" in message


def test_a_name_that_no_bucket_can_have(environment):
    environment()
    assert "cannot write: " in refusal("s3://No_Bucket!/runs")


def test_a_server_that_overwrites_in_spite_of_a_condition(environment, monkeypatch):
    from pipeline.storage import s3

    root = environment()
    monkeypatch.setattr(s3, "write_if_absent", lambda uri, data: s3.write(uri, data) or True)
    assert "overwrites what is there in spite of If-None-Match" in refusal(f"{root}/check")
    assert storage.listing(f"{root}/check") == []


def test_a_removal_that_is_refused_for_one_object(environment, monkeypatch):
    from pipeline.storage import s3

    root = environment()
    storage.write(f"{root}/kept/file", b"x")
    answer = {"Errors": [{"Key": "kept/file", "Code": "AccessDenied", "Message": "Access Denied."}]}
    monkeypatch.setattr(s3.client(), "delete_objects", lambda **_: answer)
    with pytest.raises(storage.StorageError, match=r"cannot remove: AccessDenied; .*allow s3:DeleteObject on bucket"):
        storage.remove_tree(f"{root}/kept")
