"""A picture as MLflow shows it: a tile of its own, with a slider over the steps at which it was made."""

import io

import xxhash

from pipeline.stage import Track

_TAG = "mlflow.loggedImages"  # without it the UI does not look for pictures
_WEBP_QUALITY = 85


def log_image(track: Track, png: bytes, *, key: str, step: int) -> None:
    """Track `png` under `key`, words joined by "/"; the same picture of other steps goes to the same tile.

    MLflow 3.17 knows such pictures by the names of artifacts, those of its own `log_image`: the tile shows the .webp,
    a click the .png. The last part, which is random there, is a digest: the same picture tracked again replaces itself.
    """
    name = f"images/{key.replace('/', '~')}+step+{step}+timestamp+{step}+{xxhash.xxh3_128_hexdigest(png)}"
    track.artifact(f"{name}.png", png)
    track.artifact(f"{name}+compressed.webp", _webp(png))
    track.tags({_TAG: "True"})


def _webp(png: bytes) -> bytes:
    """As large as the picture: MLflow's own has 256 pixels, too few for text."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", quality=_WEBP_QUALITY)
    return buffer.getvalue()
