"""A model exported as a graph computes what the model does, for any number of images, without our code."""

import importlib.util
import sys

import pytest
import torch

from pipeline.models.interchange import graph, outgoing
from tests.models.exchange import TOLERANCE, published


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("changes", [{}, {"pool": "map", "pre_logits": True}, {"position": "sincos2d", "pool": "gap"}])
def test_a_pt2_computes_our_logits_for_any_number_of_images(stirred, images_BCHW, tmp_path, changes):
    model = stirred(**changes)
    done = outgoing.export(published(model, tmp_path), to="pt2", out=f"{tmp_path}/model.pt2")
    assert done.files == (f"{tmp_path}/model.pt2",)
    module = torch.export.load(f"{tmp_path}/model.pt2").module()
    for number in (1, 2, 5):
        some_BCHW = images_BCHW[:number]
        torch.testing.assert_close(module(some_BCHW), model(some_BCHW), **TOLERANCE)


def test_without_a_head_a_graph_gives_features(stirred, images_BCHW, tmp_path):
    model = stirred(pre_logits=True)
    outgoing.export(published(model, tmp_path), to="pt2", out=f"{tmp_path}/model.pt2", head=False)
    module = torch.export.load(f"{tmp_path}/model.pt2").module()
    torch.testing.assert_close(module(images_BCHW), model.features(images_BCHW), **TOLERANCE)


@pytest.mark.filterwarnings("ignore")  # of mlflow about its own type hints
def test_mlflow_loads_a_model_with_a_signature_and_nothing_is_pickled(stirred, images_BCHW, tmp_path):
    import mlflow

    model = stirred()
    done = outgoing.export(published(model, tmp_path), to="mlflow", out=f"{tmp_path}/mlflow")
    names = [name.removeprefix(f"{tmp_path}/mlflow/") for name in done.files]
    assert {"MLmodel", "data/model.pt2", "input_example.json", "requirements.txt"} <= set(names)
    assert not [name for name in names if name.endswith((".pkl", ".pth", ".pt"))]
    loaded = mlflow.pyfunc.load_model(f"{tmp_path}/mlflow")
    assert loaded.metadata.get_input_schema().inputs[0].shape == (-1, 3, 32, 32)
    assert loaded.metadata.get_output_schema().inputs[0].shape == (-1, 7)
    assert loaded.metadata.metadata["model"]["heads"] == 4
    for number in (1, 2, 5):
        logits_BK = torch.from_numpy(loaded.predict(images_BCHW[:number].numpy()))
        torch.testing.assert_close(logits_BK, model(images_BCHW[:number]), **TOLERANCE)


def test_the_name_of_a_file_says_what_it_is(stirred, tmp_path):
    with pytest.raises(ValueError, match=r"out: is no file of pt2; a name such as .*/out/model\.pt2 would be right"):
        outgoing.export(published(stirred(), tmp_path), to="pt2", out=f"{tmp_path}/out")


def test_without_the_exporter_to_onnx_it_is_said_what_to_install(stirred, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs onnx and onnxscript; pip install onnx onnxscript would be right"):
        outgoing.export(published(stirred(), tmp_path), to="onnx", out=f"{tmp_path}/model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (*graph.ONNX_NEEDS, "onnxruntime")),
    reason="NO ONNX, its export is not tested: pip install onnx onnxscript onnxruntime",
)
@pytest.mark.filterwarnings("ignore")  # of the exporter, version by version
def test_an_onnx_file_computes_our_logits_for_any_number_of_images(stirred, images_BCHW, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = stirred()
    (tmp_path / "out").mkdir()
    done = outgoing.export(published(model, tmp_path), to="onnx", out=f"{tmp_path}/out/vit.onnx")
    assert done.files == (f"{tmp_path}/out/vit.onnx", f"{tmp_path}/out/vit.onnx.data")
    session = onnxruntime.InferenceSession(done.files[0], providers=["CPUExecutionProvider"])
    for number in (1, 2, 5):
        (logits_BK,) = session.run(["logits"], {"images": images_BCHW[:number].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits_BK), model(images_BCHW[:number]), **TOLERANCE)
    assert "onnx" in sys.modules
