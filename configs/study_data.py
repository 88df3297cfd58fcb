"""How much data a model needs: two sizes on nested subsets of one pre-training set (arXiv 2010.11929, section 4.3).

The paper pre-trains on random subsets of 9 M, 30 M and 90 M images and on all 303 M of JFT-300M, with one set of
hyper-parameters, and shows 5-shot accuracy on ImageNet (figure 4): B/32 is worse than a ResNet of the same cost at 9 M
images and better from 90 M on. Figure 4 is only plotted, so its points are not here; those of figure 3, ImageNet after
pre-training on ImageNet, ImageNet-21k and JFT-300M, are printed in Table 5 and stand beside ours.

Here: fractals, and fractals of classes that were not pre-trained on, minutes on two CPU cores. The toy shows how the
machinery works, not what data does: of four settings that were tried it is the one in which the number of samples
matters at all. Expect that 288 are much better than 96, and 960 no better than that. `study.py` says how it is done
with data of your own.

As in the paper all subsets have the same hyper-parameters, here the number of steps among them: the smaller a subset,
the more epochs. Unlike there, nothing is stopped early (the paper reports the best validation accuracy of each run).
"""

from dataclasses import replace

from configs import study
from configs.quickstart import STROKES
from pipeline.stage import Stage
from pipeline.stages.finetune import finetune
from pipeline.stages.prepare import Prepare, prepare
from pipeline.stages.transfer import transfer

SHARES = (0.1, 0.3, 1.0)
STEPS = 1500  # 100 epochs of everything

MODELS = {"tiny": replace(study.MODELS["small"], width=32, mlp_dim=128), "small": study.MODELS["small"]}

FRACTALS = Stage("shards/fractals", prepare, Prepare(replace(STROKES, per_class=20), samples_per_shard=120))
UNSEEN = Stage(
    "shards/unseen",
    prepare,
    Prepare(replace(STROKES, num_classes=24, per_class=30, val_per_class=40, seed=1), samples_per_shard=240),
)


def stages() -> tuple[Stage, ...]:
    cases = [
        study.trained(study.pretraining(model, steps=STEPS), model=name, data=data, on=part)
        for data, part in study.portions(FRACTALS, SHARES).items()
        for name, model in MODELS.items()
    ]
    fewshot, tuned = (replace(config, task="unseen", test_split="val") for config in (study.FEWSHOT, study.TUNED))
    found = study.measured(cases, transfer, fewshot, on=UNSEEN) + study.measured(cases, finetune, tuned, on=UNSEEN)
    return (study.compared("Two models on 10 % to 100 % of 960 fractals", cases, found, figures=("samples", "data")),)
