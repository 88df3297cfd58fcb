"""A ViTConfig cannot be wrong, and a name in the table is the model of the paper."""

import subprocess
import sys

import pytest

from pipeline.models.variant import vit


def test_a_name_is_the_papers_sizes_and_changes_are_fields():
    config = vit("H/14", image_px=224, num_classes=1000, dropout=0.1, heads=20)
    assert (config.width, config.depth, config.heads, config.mlp_dim) == (1280, 32, 20, 5120)
    assert (config.patch_px, config.grid, config.num_patches, config.num_tokens) == (14, (16, 16), 256, 257)
    assert config.dropout == 0.1


def test_without_a_class_token_the_tokens_are_the_patches():
    assert vit("B/16", image_px=224, num_classes=0, pool="gap").num_tokens == 196
    assert vit("B/16", image_px=224, num_classes=0, pool="map").num_tokens == 196


@pytest.mark.parametrize(
    ("name", "meant"), [("h/14", "'H/14'"), ("B16", "'B/16'"), ("G/14", "'g/14'"), ("T/16", "'Ti/16'")]
)
def test_an_unknown_name_lists_the_choices_and_the_likely_one(name, meant):
    with pytest.raises(ValueError) as error:
        vit(name, image_px=224, num_classes=10)
    message = f"vit: no variant '{name}'; it is one of Ti, S, B, L, H, g and /patch_px — did you mean {meant}?"
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["", "resnet50", "B/", "B/sixteen", "B/-16", "/16"])
def test_a_name_that_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"^vit: no variant .* one of Ti, S, B, L, H, g"):
        vit(name, image_px=224, num_classes=10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_px": 225}, "image_px: 225 is not a multiple of patch_px 16; 224 or 240 would be"),
        ({"image_px": 9}, "image_px: 9 is not a multiple of patch_px 16; 16 would be"),
        ({"patch_px": 0}, "patch_px: must be at least 1, got 0"),
        ({"heads": 5}, "heads: 5 does not divide width 768"),
        ({"depth": -1}, "depth: must be at least 1, got -1"),
        ({"num_classes": -1}, "num_classes: must be 0 (none) or more, got -1"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and less than 1, got 1.0"),
        ({"drop_path": -0.1}, "drop_path: must be at least 0 and less than 1, got -0.1"),
        ({"pool": "token"}, "pool: 'token' is not one of 'cls', 'gap', 'map'"),
        ({"position": "sincos"}, "position: 'sincos' is not one of 'learned', 'sincos2d', 'none'"),
        ({"position_resize": "area"}, "position_resize: 'area' is not one of 'bilinear', 'bicubic'"),
        ({"gelu": "relu"}, "gelu: 'relu' is not one of 'tanh', 'exact'"),
        (
            {"width": 6, "heads": 1, "position": "sincos2d"},
            "width: 6 does not fit position 'sincos2d'; a multiple of 4 from 8 on would",
        ),
    ],
)
def test_a_wrong_value_names_its_field_first(changes, message):
    with pytest.raises(ValueError) as error:
        vit("B/16", **{"image_px": 224, "num_classes": 10, **changes})
    assert str(error.value) == message


def test_configs_and_their_counts_need_no_torch():
    code = "import sys, pipeline.models.variant, pipeline.models.flops; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
