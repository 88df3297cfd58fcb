"""Models on their way between projects: saved as ours, loaded as ours, and by timm."""

from pathlib import Path
from typing import Any

import torch

from pipeline.models import weights
from pipeline.models.interchange import incoming
from pipeline.models.interchange.unsaid import Unsaid
from pipeline.models.vit import ViT

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def published(model: ViT, folder: Path) -> str:
    path = folder / "weights.safetensors"
    path.write_bytes(weights.to_bytes(model))
    return str(path)


def loaded(source: str, **unsaid: Any) -> ViT:
    found = incoming.read(source, unsaid=Unsaid(**unsaid))
    model = ViT(found.config).eval()
    model.load_state_dict(found.state)
    return model


def by_timm(folder: str) -> torch.nn.Module:
    import timm as library

    return library.create_model(f"local-dir:{folder}", pretrained=True).eval()


def saved_by_timm(folder: Path, **arguments: Any) -> torch.nn.Module:
    """A small model of timm's, every weight drawn, saved by timm."""
    import timm as library
    from timm.models import save_for_hf

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 7}
    arguments = {**sizes, **arguments}
    model = library.create_model("vit_base_patch16_224", **arguments).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model
