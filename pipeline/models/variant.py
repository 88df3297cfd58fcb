"""What a Vision Transformer is, as data: its sizes, its choices, and the table of named variants. Knows no torch.

Everything that can be said of a model without building it starts here: `flops.py` counts on a ViTConfig,
`weights.py` stores it beside the tensors, `vit.py` builds it.
"""

import difflib
from dataclasses import dataclass
from typing import Any, Literal

Pool = Literal["cls", "gap", "map"]
Position = Literal["learned", "sincos2d", "none"]
Gelu = Literal["tanh", "exact"]
Resize = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class ViTConfig:
    """The architecture of one ViT (Dosovitskiy et al. 2021, arXiv 2010.11929). Everything in it is identity.

    pool: "cls" reads the class token; "gap" averages the patch tokens; "map" attends to them with one learned query
        ("Scaling Vision Transformers", arXiv 2106.04560). With "gap" and "map" there is no class token at all.
    position: "learned" is one vector per token; "sincos2d" is fixed ("Better plain ViT baselines", arXiv 2205.01580)
        and leaves the class token without a position.
    position_resize: how a learned position embedding follows another image size. "bilinear" is corner-aligned, as
        the papers' code does it; "bicubic" is anti-aliased, as timm does it.
    pre_logits: a tanh layer of size width before the head, part of what `features` returns. Fine-tuning drops it.
    mask_token, patch_outputs: for masked patch prediction: a learned stand-in for masked patches, and the size of the
        linear prediction per patch (0: none; 512 for the paper's 3-bit mean colour).
    drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.
    patch_dropout: the share of patches that pre-training leaves out of every image (FLIP, arXiv 2212.00794).
    gelu: "tanh" is what the papers' code computes; "exact" is the default of timm and transformers.
    head_bias: the head's bias at initialisation; about -log(classes) for sigmoid losses (-6.9 for 1k, -10 for 21k).
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    patch_px: int
    image_px: int
    num_classes: int  # 0: no head, the model returns features
    channels: int = 3
    pool: Pool = "cls"
    position: Position = "learned"
    position_resize: Resize = "bilinear"
    pre_logits: bool = False
    mask_token: bool = False
    patch_outputs: int = 0
    dropout: float = 0.0
    drop_path: float = 0.0
    patch_dropout: float = 0.0
    gelu: Gelu = "tanh"
    head_bias: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "mlp_dim", "patch_px", "image_px", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("num_classes", "patch_outputs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 (none) or more, got {getattr(self, name)}")
        for name in ("dropout", "drop_path", "patch_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 0 and less than 1, got {getattr(self, name)}")
        choices = {"pool": ("cls", "gap", "map"), "position": ("learned", "sincos2d", "none")}
        choices |= {"position_resize": ("bilinear", "bicubic"), "gelu": ("tanh", "exact")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}")
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        if self.position == "sincos2d" and (self.width % 4 or self.width < 8):
            raise ValueError(f"width: {self.width} does not fit position 'sincos2d'; a multiple of 4 from 8 on would")
        if self.image_px % self.patch_px:
            raise ValueError(f"image_px: {nearest_multiples(self.image_px, self.patch_px)}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (height, width) at `image_px`."""
        return self.image_px // self.patch_px, self.image_px // self.patch_px

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def num_tokens(self) -> int:
        """Patches, and the class token where there is one."""
        return self.num_patches + (self.pool == "cls")

    def num_kept(self, num_patches: int) -> int:
        """How many patches of an image with `num_patches` remain in pre-training: all, but for patch dropout."""
        return max(1, round(num_patches * (1 - self.patch_dropout)))


def nearest_multiples(size_px: int, patch_px: int) -> str:
    """`225 is not a multiple of patch_px 16; 224 or 240 would be`: the sentence for a size that no patches tile."""
    below = size_px // patch_px * patch_px
    either = f"{below} or {below + patch_px}" if below else f"{patch_px}"
    return f"{size_px} is not a multiple of patch_px {patch_px}; {either} would be"


# name: (width, depth, heads, mlp_dim). Ti to H: arXiv 2010.11929 table 1 and 2106.10270 table 1; g: 2106.04560 table 2.
VARIANTS: dict[str, tuple[int, int, int, int]] = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
}
_USUAL = ("Ti/16", "S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14", "g/14")


def vit(name: str, *, image_px: int, num_classes: int, **changes: Any) -> ViTConfig:
    """The config of a variant named as in the papers: `vit("H/14", image_px=224, num_classes=1000, dropout=0.1)`.

    The letters choose the sizes, the number is the patch in pixels: any number that tiles `image_px`.
    `changes` are further fields of ViTConfig, sizes included. Raises ValueError for a name that is not in the table.
    """
    letters, _, patch = name.partition("/")
    if letters not in VARIANTS or not patch.isdecimal():
        close = difflib.get_close_matches(name.lower(), [usual.lower() for usual in _USUAL], n=1)
        meant = f" — did you mean {next(u for u in _USUAL if u.lower() == close[0])!r}?" if close else ""
        raise ValueError(f"vit: no variant {name!r}; it is one of {', '.join(VARIANTS)} and /patch_px{meant}")
    width, depth, heads, mlp_dim = VARIANTS[letters]
    sizes = {"width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim, "patch_px": int(patch)}
    return ViTConfig(**{**sizes, "image_px": image_px, "num_classes": num_classes, **changes})
