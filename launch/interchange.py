"""`tessera export` and `tessera import`: weights for other projects, and weights of theirs."""

import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from launch.border import errors

log = logging.getLogger("tessera")


class To(StrEnum):
    """What weights are exported as."""

    timm = "timm"
    huggingface = "huggingface"
    mlflow = "mlflow"
    npz = "npz"
    pt2 = "pt2"
    onnx = "onnx"


class GeluKind(StrEnum):
    """Which GELU a model computes."""

    tanh = "tanh"
    exact = "exact"


_LOAD = {
    To.timm: 'timm.create_model("local-dir:{out}", pretrained=True)',
    To.huggingface: 'transformers.{kind}.from_pretrained("{out}")',
    To.mlflow: 'mlflow.pyfunc.load_model("{out}")',
    To.npz: 'numpy.load("{out}"), with the names of the released ViTs',
    To.pt2: 'torch.export.load("{out}").module()',
    To.onnx: 'onnxruntime.InferenceSession("{out}")',
}

Debug = Annotated[bool, typer.Option("--debug", help="Show debug lines, and tracebacks of errors.")]


def export(
    source: Annotated[
        str, typer.Argument(help="The output of a stage, such as runs/quickstart/pretrain, or a file with weights.")
    ],
    out: Annotated[
        str, typer.Argument(help="A folder for timm, huggingface and mlflow, else a file such as model.onnx.")
    ],
    to: Annotated[To, typer.Option(help="The format.")],
    head: Annotated[bool, typer.Option("--head/--no-head", help="With the classes, or features only.")] = True,
    debug: Debug = False,
) -> None:
    """Write weights as timm, transformers or JAX read them, or as a graph that runs without this code.

    Images are to be resized to the square of the model's size and scaled to [-1, 1]. Prints the files it wrote.
    What a format cannot hold is refused, or left out and told.
    """
    with errors(debug=debug):
        from pipeline.models.interchange import outgoing

        done = outgoing.export(source, to=to.value, out=out, head=head)
        _tell(done.remarks)
        typer.echo("\n".join(done.files))
        kind = "ViTForImageClassification" if done.config.num_classes else "ViTModel"
        log.info("load it by %s", _LOAD[to].format(out=out, kind=kind))


def take_in(
    source: Annotated[
        str, typer.Argument(help="A .npz of JAX, a folder of timm or transformers, or a .safetensors of either.")
    ],
    out: Annotated[str, typer.Argument(help="A folder or s3://bucket/prefix for weights.safetensors.")],
    heads: Annotated[int | None, typer.Option(help="Of attention, where the file does not say it.")] = None,
    gelu: Annotated[GeluKind | None, typer.Option(help="Likewise; exact is timm's default, tanh is JAX's.")] = None,
    image_px: Annotated[int | None, typer.Option(help="Likewise, of a model with fixed positions.")] = None,
    debug: Debug = False,
) -> None:
    """Read a released ViT and write it as a pre-training would, to be fine-tuned: see configs/finetune_released.py.

    Nothing is unpickled. A model with parts that ours have not, such as register tokens, is refused, naming them.
    Prints the file with the weights; imported.json beside it says what they are.
    """
    with errors(debug=debug):
        from pipeline import storage
        from pipeline.config import decode
        from pipeline.models import flops
        from pipeline.models.interchange import incoming
        from pipeline.models.interchange.unsaid import Unsaid
        from pipeline.models.variant import ViTConfig

        there = storage.join(out, incoming.WEIGHTS)
        if storage.exists(there):
            raise ValueError(f"{there}: is there already; another place would be right, or removing it")
        unsaid = Unsaid(heads, gelu.value if gelu else None, image_px)
        done = incoming.keep(source, out=out, unsaid=unsaid)
        model = decode(ViTConfig, done.model, "model")
        typer.echo(done.weights)
        log.info(
            "%s: %.1f M parameters, %d blocks of width %d, patches of %d px, %d px, %d classes, pool %s, GELU %s",
            *(done.format, flops.num_parameters(model) / 1e6, model.depth, model.width, model.patch_px),
            *(model.image_px, model.num_classes, model.pool, model.gelu),
        )


def _tell(remarks: Sequence[str]) -> None:
    for remark in remarks:
        log.warning("%s", remark)
