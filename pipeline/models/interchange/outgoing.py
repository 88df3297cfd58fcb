"""Weights of ours as others want them. What their format cannot say is refused, or left out and told."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch

from pipeline import storage
from pipeline.config import encode
from pipeline.models.interchange import graph, huggingface, incoming, jax, npz, timm
from pipeline.models.interchange.foreign import State
from pipeline.models.position import sincos2d
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.tracking.saved import save_model

Format = Literal["timm", "huggingface", "mlflow", "npz", "pt2", "onnx"]

# Formats that are folders, by the file that makes one; the others are files, called after the format.
FOLDERS: Mapping[Format, str] = {"timm": "config.json", "huggingface": "config.json", "mlflow": "MLmodel"}

_GRAPHS: tuple[Format, ...] = ("mlflow", "pt2", "onnx")  # these hold code, and so every ViT of ours


@dataclass(frozen=True)
class Exported:
    """Where the files are, the first one being what to load; `remarks` say what was left out or is not the same."""

    files: tuple[str, ...]
    config: ViTConfig
    remarks: tuple[str, ...]


def export(source: str, *, to: Format, out: str, head: bool = True) -> Exported:
    """Write the model in `source`, which `incoming.read` reads, as another format; without `head` its features.

    `out` is a folder for timm, huggingface and mlflow, and else a file whose name ends with the format's.
    ValueError for a model that the format cannot hold, or where there is something at `out`; nothing is written then.
    """
    if to not in FOLDERS and not out.endswith(f".{to}"):
        raise ValueError(f"{out}: is no file of {to}; a name such as {storage.join(out, f'model.{to}')} would be right")
    main = storage.join(out, FOLDERS[to]) if to in FOLDERS else out
    if storage.exists(main):
        raise ValueError(f"{main}: is there already; another place would be right, or removing it")
    if to == "onnx":
        graph.check_installed()
    found = incoming.read(source)
    config, state, remarks = _plain(found.config, found.state, head=head, to=to)
    files = _files(config, state, to=to, name=out.rpartition("/")[2])
    written = []
    for name, data in files.items():
        written.append(storage.join(out, name) if to in FOLDERS else out + name)
        storage.write(written[-1], data)
    return Exported(tuple(written), config, (*found.remarks, *remarks))


def _files(config: ViTConfig, state: State, *, to: Format, name: str) -> dict[str, bytes]:
    """What is to be written, by name: in a folder, or what follows the `name` of the file."""
    if to == "npz":
        return {"": npz.to_bytes(jax.write(state, config))}
    if to == "pt2":
        return {"": graph.pt2(_model(config, state))}
    if to == "onnx":  # the graph names the file of its weights, so it is written under the name it will have
        written = _written(lambda folder: graph.onnx(_model(config, state), folder / name))
        return {file.removeprefix(name): data for file, data in written.items()}
    if to == "mlflow":
        return _written(lambda folder: _save_for_mlflow(_model(config, state), folder))
    tensors, about = (timm if to == "timm" else huggingface).write(state, config)
    files = {"model.safetensors": safetensors.torch.save(tensors, metadata={"format": "pt"})}
    return files | {name: _json(value) for name, value in about.items()}


def _save_for_mlflow(model: ViT, folder: Path) -> None:
    config = model.config
    shape = (config.channels, config.image_px, config.image_px)
    about = {"model": encode(config), "pixels": "float32 from -1 to 1, channels first"}
    save_model(model.eval(), folder, input_shape=shape, output_shape=(config.num_classes or config.width,), about=about)


def _written(write: Callable[[Path], None]) -> dict[str, bytes]:
    """What `write` writes into a folder, by name."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _model(config: ViTConfig, state: State) -> ViT:
    model = ViT(config).requires_grad_(False)
    model.load_state_dict(state)
    return model


def _plain(config: ViTConfig, state: State, *, head: bool, to: Format) -> tuple[ViTConfig, State, list[str]]:
    """The model without what only pre-training reads, and with the positions that a format needs as a table."""
    remarks, left_out = [], ["mask_token", "patch_head."]
    if not head:
        left_out += ["head."] + ["pre_logits."] * (to == "timm")
    dropped = sorted(key for key in state if key.startswith(tuple(left_out)))
    if dropped:
        remarks.append(f"left out: {', '.join(dropped)}")
    state = {key: tensor.float() for key, tensor in state.items() if key not in dropped}
    config = replace(config, mask_token=False, patch_outputs=0, dropout=0.0, drop_path=0.0, patch_dropout=0.0)
    config = replace(
        config,
        num_classes=config.num_classes if "head.weight" in state else 0,
        pre_logits="pre_logits.weight" in state,
    )
    if config.position != "learned" and to not in _GRAPHS:
        remarks.append(
            f"positions {config.position!r} became a table for {config.image_px} px: right at this size only"
        )
        state["pos_embed"] = _table(config)
        config = replace(config, position="learned")
    return config, state, remarks


def _table(config: ViTConfig) -> torch.Tensor:
    """Fixed positions as a learned embedding; zeros for the class token and where there are none."""
    table_1TD = torch.zeros(1, config.num_tokens, config.width)
    if config.position == "sincos2d":
        table_1TD[:, -config.num_patches :] = sincos2d(config.grid, width=config.width)
    return table_1TD
