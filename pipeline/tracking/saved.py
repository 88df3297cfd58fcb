"""A model as a folder that MLflow loads and serves, without a server, without pickle, and without code of ours."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.tracking.client import QUIET


def save_model(
    model: Any, folder: Path, *, input_shape: tuple[int, ...], output_shape: tuple[int, ...], about: Mapping[str, Any]
) -> None:
    """Write the torch module `model` in evaluation mode as a graph, for any number of float32 inputs of `input_shape`.

    `mlflow.pyfunc.load_model(folder).predict(inputs)` gives arrays of `output_shape`. `about` is kept in MLmodel.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow.pytorch as mlflow_pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    number = np.dtype(np.float32)
    inputs, outputs = (Schema([TensorSpec(number, (-1, *shape))]) for shape in (input_shape, output_shape))
    mlflow_pytorch.save_model(
        model,
        str(folder),
        signature=ModelSignature(inputs, outputs),
        input_example=np.zeros((2, *input_shape), number),  # two: the graph of one image would be for one image
        serialization_format="pt2",
        # A local build such as 2.13.0+cpu is on no index.
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        metadata=dict(about),
    )
