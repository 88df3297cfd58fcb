"""How much data a model needs: two sizes on nested subsets of one pre-training set (arXiv 2010.11929, section 4.3).

The paper pre-trains on random subsets of 9 M, 30 M and 90 M images and on all 303 M of JFT-300M, with one set of
hyper-parameters, and shows 5-shot accuracy on ImageNet (figure 4): B/32 is worse than a ResNet of the same cost at 9 M
images and better from 90 M on. Figure 4 is only plotted, so its points are not here; those of figure 3, ImageNet after
pre-training on ImageNet, ImageNet-21k and JFT-300M, are printed in Table 5 and stand beside ours.

Here: fractals and digits, minutes on two CPU cores. `study.py` says how it is done with data of your own.

As in the paper all subsets have the same hyper-parameters and the same number of steps; the smaller, the more epochs.
Unlike it, nothing is stopped early (the paper reports the best validation accuracy of each run).
"""

from configs import study
from pipeline.stage import Stage
from pipeline.stages.finetune import finetune
from pipeline.stages.transfer import transfer

SHARES = (0.1, 0.3, 1.0)
STEPS = 450  # 6 epochs of everything


def stages() -> tuple[Stage, ...]:
    cases = [
        study.trained(study.pretraining(model, steps=STEPS), model=name, data=data, on=part)
        for data, part in study.portions(study.FRACTALS, SHARES).items()
        for name, model in study.MODELS.items()
    ]
    found = study.measured(cases, transfer, study.FEWSHOT, on=study.DIGITS)
    found += study.measured(cases, finetune, study.TUNED, on=study.DIGITS)
    return (study.compared("Two models on 10 % to 100 % of the fractals", cases, found, figures=("samples", "data")),)
