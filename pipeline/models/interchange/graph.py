"""A model as a graph that runs without this code: torch.export's .pt2, and ONNX. Any number of images, of one size.

Loading a .pt2 is for whoever trusts where it comes from, as with every program.
"""

import io
from pathlib import Path
from typing import Any

import torch

from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT

ONNX_NEEDS = ("onnx", "onnxscript")


def pt2(model: ViT) -> bytes:
    """`torch.export.load(file).module()(images_BCHW)` gives the logits, or the features of a model without a head."""
    batch = {"images_BCHW": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model.eval(), (_images(model.config),), dynamic_shapes=batch)
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def onnx(model: ViT, path: Path) -> None:
    """`path`, and beside it `path`.data with the weights, since one file of ONNX holds 2 GB at most.

    The input is called "images", the output "logits" or "features". ValueError where the exporter is not installed.
    """
    check_installed()
    output = "logits" if model.config.num_classes else "features"
    program: Any = torch.onnx.export(
        model.eval(),
        (_images(model.config),),
        dynamo=True,
        input_names=["images"],
        output_names=[output],
        dynamic_shapes={"images_BCHW": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    program.save(str(path), external_data=True)


def check_installed() -> None:
    """ValueError unless there is all that torch's exporter to ONNX needs."""
    from importlib.util import find_spec

    missing = [package for package in ONNX_NEEDS if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"onnx: torch's exporter needs {' and '.join(missing)}; pip install {' '.join(ONNX_NEEDS)} would be right"
        )


def _images(config: ViTConfig) -> torch.Tensor:
    """Two, because an export of one image would be for one image."""
    return torch.zeros(2, config.channels, config.image_px, config.image_px)
