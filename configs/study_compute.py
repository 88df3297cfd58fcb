"""What compute buys: two sizes, each pre-trained for several numbers of epochs (arXiv 2010.11929, section 4.4).

The paper has 7 ResNets, 6 ViTs and 5 hybrids, pre-trained on JFT-300M for 7 or 14 epochs, and shows accuracy after
fine-tuning against exaFLOPs of pre-training (figure 5). All of it is printed in Table 6 and stands beside ours: a ViT
needs 2 to 4 times less compute than a ResNet for the same accuracy.

Here: fractals and digits, minutes on two CPU cores. `study.py` says how it is done with data of your own.

As in the paper each number of epochs is a run of its own, whose learning rate decays to the end. FLOPs are counted as
the paper's are, 6 x multiply-adds an image (`pipeline.models.flops`).
"""

from configs import study
from pipeline.stage import Stage
from pipeline.stages.finetune import finetune

EPOCHS = (1, 3, 9)


def stages() -> tuple[Stage, ...]:
    cases = [
        study.trained(
            study.pretraining(model, steps=epochs * study.SAMPLES // study.BATCH),
            model=name,
            data="fractals",
            on=study.FRACTALS,
            name=f"{name}-{epochs}-epochs",
        )
        for name, model in study.MODELS.items()
        for epochs in EPOCHS
    ]
    found = study.measured(cases, finetune, study.TUNED, on=study.DIGITS)
    return (study.compared("Two models for 1 to 9 epochs of the fractals", cases, found, figures=("compute",)),)
