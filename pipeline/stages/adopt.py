"""Stage: bring in weights that were trained elsewhere, to be fine-tuned or looked at like those of a pre-training.

<out>/weights.safetensors   the result
<out>/imported.json         where it came from
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.models.interchange.unsaid import Unsaid
from pipeline.stage import Cluster, Track


@dataclass(frozen=True)
class Adopt:
    """`source` is a .npz of JAX, a folder of timm or of transformers, a .safetensors, or a stage output of ours.

    `digest`, the xxh3-128 of the file with the weights, keeps another file from passing for it. `unsaid` has what the
    file does not say: its heads, its GELU, its image size.
    """

    source: str
    digest: str = ""
    unsaid: Unsaid = Unsaid()

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError("source: must not be empty; a file such as 'weights/ViT-B_16.npz'")


def adopt(config: Adopt, *, out: str, cluster: Cluster, track: Track) -> Mapping[str, Any]:
    """Write the weights as a pre-training publishes them. Returns {"weights", "digest", "model", ...} as that does.

    ValueError for what is no ViT of ours, and for a file of another digest; StorageError where there is none.
    """
    from pipeline.models.interchange import incoming

    imported = asdict(incoming.keep(config.source, out=out, unsaid=config.unsaid, digest=config.digest))
    track.model(name="vit", uri=imported["weights"], digest=imported["digest"], params=imported["model"])
    track.tags({"source": imported["source"], "source_digest": imported["source_digest"]})
    return imported
