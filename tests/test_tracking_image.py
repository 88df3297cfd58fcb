"""Pictures lie where MLflow's own `log_image` puts them, so that its UI shows them with a slider."""

import io
import re

import mlflow
import pytest
from PIL import Image

from pipeline.tracking import Tracker
from pipeline.tracking.client import connect
from pipeline.tracking.image import log_image
from tests.fakes import NullTrack


def picture(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (400, 300), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def logged(client, run_id):
    """key, step, what else its name says, and ending of every picture of a run."""
    files = [entry.path for entry in client.list_artifacts(run_id, "images")]
    parts = re.compile(r"images/(.+)\+step\+(\d+)\+timestamp\+\d+\+[0-9a-f-]+(\+compressed)?\.(png|webp)")
    return sorted((match[1], match[2], match[3] or "", match[4]) for match in map(parts.fullmatch, files) if match)


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_pictures_of_several_steps_are_named_as_mlflows_own_are(uri, tmp_path):
    with Tracker(uri, experiment="inspection", spool=tmp_path / "spool") as tracker:
        with tracker.run("inspection/a", name="inspect", kind="stage") as run:
            for step, shade in ((50, 10), (100, 200)):
                log_image(run, picture(shade), key="inspect/filters", step=step)
        assert tracker.close() == 0
    client = connect(uri, create=False)
    (ours,) = client.search_runs(["1"])
    theirs = client.create_run("1")
    for step, shade in ((50, 10), (100, 200)):
        with Image.open(io.BytesIO(picture(shade))) as image:
            client.log_image(theirs.info.run_id, image, key="inspect/filters", step=step, synchronous=True)
    expected = logged(client, theirs.info.run_id)
    assert len(expected) == 4
    assert logged(client, ours.info.run_id) == expected
    tag = "mlflow.loggedImages"
    assert ours.data.tags[tag] == client.get_run(theirs.info.run_id).data.tags[tag] == "True"
    kept = client.list_artifacts(ours.info.run_id, "images")
    local = mlflow.artifacts.download_artifacts(
        run_id=ours.info.run_id, artifact_path=kept[0].path, tracking_uri=uri, dst_path=str(tmp_path)
    )
    with Image.open(local) as image:
        assert image.size == (400, 300)


def test_the_same_picture_tracked_again_has_the_same_names():
    first, second = NullTrack(), NullTrack()
    for track in (first, second):
        log_image(track, picture(7), key="inspect/rollout", step=3)
    assert first.told_artifacts == second.told_artifacts
    assert len(first.told_artifacts) == 2
