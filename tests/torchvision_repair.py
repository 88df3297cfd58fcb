"""timm and transformers import torchvision, which cannot be imported where it is built for CUDA and torch is not.

from tests import torchvision_repair
torchvision_repair.install()
"""

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType


def install() -> None:
    """Once per process, before the first import of timm, transformers or torchvision."""
    if not any(isinstance(finder, TorchvisionRepair) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionRepair())


class TorchvisionRepair(importlib.abc.MetaPathFinder):
    """Lets timm and transformers, our oracles, be imported where torchvision is built for CUDA and torch is not.

    Such a torchvision cannot load its C++ library, and then fails because an operator that the library would have
    declared (`nms`) is unknown. Declaring it is enough for everything but detection and the image codecs. Nothing
    happens before torchvision is imported, and nothing at all where it is healthy.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            # On the instance: the loader stays what it is for everybody who looks at it.
            spec.loader.exec_module = functools.partial(_run, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _run(execute, module: ModuleType) -> None:
    try:
        execute(module)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
        module.operators = _declare_operators()  # a declaration lives as long as its library object
        execute(module)


def _declare_operators() -> object:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
