"""`tessera export` and `tessera import`, as a shell calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from launch.__main__ import app
from pipeline.models import weights
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT

CONFIG = ViTConfig(width=32, depth=2, heads=2, mlp_dim=64, patch_px=8, image_px=16, num_classes=5)


def tessera(*words: object):
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What a pre-training leaves behind."""
    folder = tmp_path / "runs" / "pretrain"
    folder.mkdir(parents=True)
    model = ViT(CONFIG, generator=torch.Generator().manual_seed(0))
    (folder / "weights.safetensors").write_bytes(weights.to_bytes(model))
    return folder


@pytest.mark.parametrize(
    ("to", "out", "files"),
    [
        ("timm", "timm", ["timm/model.safetensors", "timm/config.json"]),
        ("huggingface", "hf", ["hf/model.safetensors", "hf/config.json", "hf/preprocessor_config.json"]),
        ("npz", "vit.npz", ["vit.npz"]),
    ],
)
def test_an_output_is_exported_and_the_files_are_named_on_stdout(output, tmp_path, to, out, files):
    done = tessera("export", output, tmp_path / out, "--to", to)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(tmp_path / name) for name in files]
    assert all((tmp_path / name).stat().st_size for name in files)
    assert "load it by" in done.stderr


@pytest.mark.parametrize(("to", "out"), [("npz", "vit.npz"), ("huggingface", "hf")])
def test_an_export_comes_back_bit_for_bit_as_what_a_pretraining_publishes(output, tmp_path, to, out):
    tessera("export", output, tmp_path / out, "--to", to)
    done = tessera("import", tmp_path / out, tmp_path / "back")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path}/back/weights.safetensors\n"
    assert "2 blocks of width 32, patches of 8 px, 16 px, 5 classes, pool cls, GELU tanh" in done.stderr
    published = (output / "weights.safetensors").read_bytes()
    assert (tmp_path / "back" / "weights.safetensors").read_bytes() == published
    assert json.loads((tmp_path / "back" / "imported.json").read_text())["model"]["heads"] == 2


def test_what_is_left_out_is_told(output, tmp_path):
    done = tessera("export", output, tmp_path / "timm", "--to", "timm", "--no-head")
    assert "left out: head.bias, head.weight" in done.stderr
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["num_classes"] == 0


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (
            ["export", "OUTPUT", "x", "--to", "pt2"],
            2,
            "x: is no file of pt2; a name such as x/model.pt2 would be",
        ),
        (["export", "NONE", "x", "--to", "timm"], 4, "has no model.safetensors and no weights.safetensors"),
        (["import", "model.pth", "x"], 2, "model.pth: would have to be unpickled, which runs code"),
        (["import", "none.npz", "x"], 4, "none.npz"),
        (["import", "OUTPUT", "OUTPUT"], 2, "weights.safetensors: is there already; another place would be right"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(output, tmp_path, words, code, complaint):
    places = {"OUTPUT": str(output), "NONE": str(tmp_path)}
    done = tessera(*[places.get(word, word) for word in words])
    assert done.exit_code == code, done.output
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_file_does_not_say_is_said_by_options(tmp_path):
    import safetensors.torch

    model = ViT(CONFIG, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    refused = tessera("import", tmp_path / "theirs.safetensors", tmp_path / "x")
    assert refused.exit_code == 2
    assert "heads: does not stand in the file; say it, such as heads=12" in refused.stderr
    done = tessera("import", tmp_path / "theirs.safetensors", tmp_path / "x", "--heads", 2, "--gelu", "tanh")
    assert done.exit_code == 0, done.output
    config, _ = weights.from_bytes((tmp_path / "x" / "weights.safetensors").read_bytes())
    assert config == CONFIG


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", **{"embedding/kernel": np.array([object()])})
    done = tessera("import", tmp_path / "evil.npz", tmp_path / "x")
    assert done.exit_code == 2
    assert "embedding/kernel: holds Python objects, which are not unpickled here" in done.stderr


def test_both_say_how_they_are_called():
    for command, words in {"export": ["--to", "huggingface", "--no-head"], "import": ["--heads", "--gelu"]}.items():
        text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        assert all(word in text for word in words)
