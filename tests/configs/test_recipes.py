"""The recipes say what the papers say. The numbers are typed from the papers' tables and compared to what would run.

[ViT] arXiv 2010.11929, [AugReg] 2106.10270, [BPV] 2205.01580; issues are those of google-research/vision_transformer.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from launch import recipe
from pipeline.data.view import EvalView
from pipeline.models import flops
from pipeline.models.origin import with_new_head
from pipeline.stage import Stage, in_order
from pipeline.train.schedule import lr_at

PAPER = ("vit_h14_jft", "vit_l16_i21k", "vit_b16_i1k", "vit_s16_i1k_90", "augreg_b16_i21k")
VIT_PAPER = PAPER[:3]


def stages(name: str, *assignments: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in in_order(recipe.load(name, assignments=assignments).stages)}


def pretrain(name: str):
    return stages(name)["pretrain"].config


def finetunes(name: str) -> dict:
    """By the name of the data set."""
    found = stages(name).items()
    return {key.removeprefix("finetune/"): stage.config for key, stage in found if key.startswith("finetune/")}


@pytest.mark.parametrize(
    ("name", "depth", "width", "mlp_dim", "heads", "patch_px", "millions"),
    [
        ("vit_b16_i1k", 12, 768, 3072, 12, 16, 86),
        ("vit_l16_i21k", 24, 1024, 4096, 16, 16, 303),
        ("vit_h14_jft", 32, 1280, 5120, 16, 14, 631),
        ("vit_s16_i1k_90", 12, 384, 1536, 6, 16, 22),
        ("augreg_b16_i21k", 12, 768, 3072, 12, 16, 86),
    ],
)
def test_models_are_those_of_vit_table_1(name, depth, width, mlp_dim, heads, patch_px, millions):
    model = pretrain(name).model
    assert (model.depth, model.width, model.mlp_dim, model.heads) == (depth, width, mlp_dim, heads)
    assert (model.patch_px, model.image_px, model.gelu) == (patch_px, 224, "tanh")
    backbone = with_new_head(model, num_classes=0, image_px=224)
    assert round(flops.num_parameters(backbone) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "epochs_of", "steps", "lr", "decay", "weight_decay", "dropout"),
    [
        ("vit_h14_jft", (14, 303_000_000), 1_035_645, 3e-4, "linear", 0.1, 0.0),
        ("vit_l16_i21k", (90, 14_197_122), 311_948, 1e-3, "linear", 0.03, 0.1),
        ("vit_b16_i1k", (300, 1_281_167), 93_835, 3e-3, "cosine", 0.3, 0.1),
    ],
)
def test_pre_training_is_that_of_vit_table_3(name, epochs_of, steps, lr, decay, weight_decay, dropout):
    config = pretrain(name)
    epochs, examples = epochs_of
    assert (config.optim.lr, config.optim.schedule.shape) == (lr, decay)
    assert (config.optim.weight_decay, config.model.dropout, config.model.drop_path) == (weight_decay, dropout, 0.0)
    assert config.steps == steps
    assert abs(config.steps * config.global_batch - epochs * examples) <= config.global_batch / 2


@pytest.mark.parametrize("name", VIT_PAPER)
def test_what_vit_appendix_b1_has_for_all_models(name):
    config = pretrain(name)
    optim = config.optim
    assert (optim.name, optim.beta1, optim.beta2) == ("adamw", 0.9, 0.999)
    assert (config.global_batch, optim.schedule.warmup_steps, config.view.image_px) == (4096, 10_000, 224)
    assert optim.clip == (1.0 if name == "vit_b16_i1k" else None), "clipping at norm 1 is for ImageNet"


@pytest.mark.parametrize("name", VIT_PAPER)
def test_augmentation_of_the_vit_paper_is_a_crop_and_a_flip(name):
    """Issues #39, #46, #53: 5 % to 100 % of the area."""
    view = pretrain(name).view
    assert (view.crop, view.min_area, view.max_area, view.flip) == ("inception", 0.05, 1.0, True)
    assert view.rand_augment is None
    assert pretrain(name).objective.mixup == 0.0


@pytest.mark.parametrize("name", ["vit_h14_jft", "vit_l16_i21k"])
def test_linear_decay_ends_at_1e_5(name):
    """Issue #2."""
    config = pretrain(name)
    rates = [
        lr_at(step, peak=config.optim.lr, steps=config.steps, schedule=config.optim.schedule)
        for step in (0, 5_000, 10_000, config.steps)
    ]
    assert rates[0] == 0.0
    assert rates[2] == pytest.approx(config.optim.lr)
    assert rates[1] == pytest.approx(config.optim.lr / 2)
    assert rates[3] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("name", "classes", "kind", "head_bias", "pre_logits"),
    [
        ("vit_h14_jft", 18_291, "sigmoid", -10.0, True),
        ("vit_l16_i21k", 21_843, "sigmoid", -10.0, True),
        ("vit_b16_i1k", 1000, "sigmoid", -6.9, True),
        ("vit_s16_i1k_90", 1000, "softmax", 0.0, True),
        ("augreg_b16_i21k", 21_843, "sigmoid", -10.0, False),
    ],
)
def test_losses_and_heads_are_those_of_their_sources(name, classes, kind, head_bias, pre_logits):
    """[ViT] section 3.1 and issues #2 and #34; [AugReg] section 3; big_vision/configs/vit_s16_i1k.py."""
    config = pretrain(name)
    assert (config.model.num_classes, config.objective.kind) == (classes, kind)
    assert (config.model.head_bias, config.model.pre_logits) == (head_bias, pre_logits)
    assert config.objective.label_smoothing == 0.0


def test_h14_takes_the_exaflops_of_vit_table_6():
    config = pretrain("vit_h14_jft")
    exaflops = config.steps * config.global_batch * flops.train_flops(config.model) / 1e18
    assert exaflops == pytest.approx(4262, rel=0.01)


TABLE_4 = {
    "imagenet1k": (20_000, (0.003, 0.01, 0.03, 0.06)),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "pets": (500, (0.001, 0.003, 0.01, 0.03)),
    "flowers102": (500, (0.001, 0.003, 0.01, 0.03)),
}
HELD_OUT = {"imagenet1k": 0.01, "cifar100": 0.02, "cifar10": 0.02, "pets": 0.1, "flowers102": 0.1}
WARM_UP = {20_000: 500, 10_000: 500, 2_500: 200, 500: 100}


@pytest.mark.parametrize("name", VIT_PAPER)
def test_fine_tuning_is_that_of_vit_table_4(name):
    configs = finetunes(name)
    assert {task: (config.steps, config.lrs) for task, config in configs.items()} == TABLE_4


def test_fine_tuning_of_augreg_is_that_of_its_table_4():
    configs = finetunes("augreg_b16_i21k")
    assert {task: (config.steps, config.warmup_steps, config.lrs) for task, config in configs.items()} == {
        "imagenet1k": (20_000, 500, (0.01, 0.03)),
        "cifar100": (10_000, 500, (0.001, 0.003, 0.01)),
        "pets": (2_500, 200, (0.001, 0.003, 0.01)),
    }


@pytest.mark.parametrize("name", PAPER)
def test_what_vit_appendix_b11_has_for_all_fine_tuning(name):
    for task, config in finetunes(name).items():
        optim = config.optim(config.lrs[0])
        assert (optim.name, optim.momentum, optim.weight_decay, optim.clip) == ("sgd", 0.9, 0.0, 1.0)
        assert (config.batch, optim.schedule.shape, optim.schedule.end) == (512, "cosine", 0.0)
        assert (config.warmup_steps, config.held_out) == (WARM_UP[config.steps], HELD_OUT[task])
        assert (config.seeds, config.per_class, config.init) == ((0, 1, 2), (), "pretrained")
        assert config.eval_view == EvalView(config.view.image_px), "resized straight to the square"


@pytest.mark.parametrize(
    ("name", "imagenet_px", "others_px"),
    [
        ("vit_h14_jft", 518, 378),
        ("vit_l16_i21k", 512, 384),
        ("vit_b16_i1k", 384, 384),
        ("augreg_b16_i21k", 384, 384),
    ],
)
def test_images_are_larger_in_fine_tuning(name, imagenet_px, others_px):
    """[ViT] section 4.1: 384 px; on ImageNet 512 for L/16 and 518 for H/14. 378 is 384 in whole patches of 14."""
    found = {task: config.view.image_px for task, config in finetunes(name).items()}
    assert found == {task: imagenet_px if task == "imagenet1k" else others_px for task in found}
    for image_px in found.values():
        with_new_head(pretrain(name).model, num_classes=10, image_px=image_px)  # or no model has that size


def test_s16_is_the_recipe_of_better_plain_vit_baselines():
    """big_vision/configs/vit_s16_i1k.py: 90 epochs of train[:99%]."""
    config = pretrain("vit_s16_i1k_90")
    assert (config.global_batch, config.optim.lr, config.optim.clip) == (1024, 1e-3, 1.0)
    assert (config.optim.schedule.shape, config.optim.schedule.warmup_steps) == ("cosine", 10_000)
    assert (config.model.pool, config.model.position, config.model.dropout) == ("gap", "sincos2d", 0.0)
    assert (config.view.rand_augment, config.objective.mixup) == ((2, 10), 0.2)
    assert (config.view.crop, config.view.min_area, config.view.flip) == ("inception", 0.05, True)
    assert config.steps == round(90 * 1_268_355 / 1024) == 111_477


def test_the_weight_decay_of_s16_takes_off_what_big_vision_does():
    """There a step takes off 1e-4 times the schedule, which peaks at 1; here, as in AdamW, lr times weight_decay."""
    config = pretrain("vit_s16_i1k_90")
    optim = config.optim
    assert optim.weight_decay == pytest.approx(0.1)
    for step in (100, 10_000, 60_000):
        lr = lr_at(step, peak=optim.lr, steps=config.steps, schedule=optim.schedule)
        schedule = lr_at(step, peak=1.0, steps=config.steps, schedule=optim.schedule)
        assert lr * optim.weight_decay == pytest.approx(1e-4 * schedule)


def test_augreg_is_the_setting_of_the_published_b16():
    """B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0: the README's recommended checkpoint."""
    config = pretrain("augreg_b16_i21k")
    assert config.steps * config.global_batch / 14_197_122 == pytest.approx(300, abs=1e-3)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.clip) == (1e-3, 0.1, 1.0)
    assert (config.optim.beta1, config.optim.beta2, config.global_batch) == (0.9, 0.999, 4096)
    assert (config.optim.schedule.shape, config.optim.schedule.warmup_steps) == ("cosine", 10_000)
    assert (config.view.rand_augment, config.objective.mixup) == ((2, 15), 0.2)
    assert (config.model.dropout, config.model.drop_path, config.model.pool) == (0.0, 0.0, "cls")


def test_the_settings_of_augreg_are_those_of_its_paper():
    from configs.paper import AUGREG

    assert AUGREG == {
        "none": (None, 0.0),
        "light1": ((2, 0), 0.0),
        "light2": ((2, 10), 0.2),
        "medium1": ((2, 15), 0.2),
        "medium2": ((2, 15), 0.5),
        "strong1": ((2, 20), 0.5),
        "strong2": ((2, 20), 0.8),
    }


@pytest.mark.parametrize("name", PAPER)
def test_few_shot_evaluation_has_the_constants_of_the_reference(name):
    """[ViT] section 4.1; big_vision's evaluators/fewshot_lsr.py and configs/common_fewshot.py."""
    config = stages(name)["transfer/imagenet1k"].config
    assert config.fewshot.l2 == 2.0**10
    assert (config.fewshot.shots, config.fewshot.seeds) == ((1, 5, 10, 25), (0, 1, 2))
    assert config.view == EvalView(224, resize_px=256, keep_aspect=False)
    assert (config.train_split, config.test_split) == ("train", "val")


@pytest.mark.parametrize("name", PAPER)
def test_a_user_says_where_the_data_lies(name):
    changed = stages(name, "shards/imagenet1k.source.path=/data/imagenet")
    assert changed["shards/imagenet1k"].config.source.path == "/data/imagenet"
    before = stages(name)
    assert all(changed[key].config == before[key].config for key in before if key != "shards/imagenet1k")


def test_the_recipe_in_the_readme_is_one(tmp_path):
    readme = Path(configs.__file__).with_name("README.md").read_text()
    mine = tmp_path / "mine.py"
    mine.write_text(readme.split("```python\n")[1].split("```")[0])
    loaded = recipe.load(str(mine), assignments=["shards/imagenet1k.source.path=/data/imagenet"])
    assert [stage.name for stage in in_order(loaded.stages)] == ["shards/imagenet1k", "pretrain"]


def test_the_readme_names_every_recipe():
    readme = Path(configs.__file__).with_name("README.md").read_text()
    assert [name for name in recipe.names() if f"| `{name}` |" not in readme] == []


def test_importing_recipes_loads_no_library_that_computes_or_tracks():
    heavy = ["torch", "ray", "mlflow", "deepspeed", "boto3", "webdataset", "sklearn", "matplotlib"]
    code = "import sys, json; from launch import recipe; [recipe.load(name) for name in recipe.names()]; "
    code += f"print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
