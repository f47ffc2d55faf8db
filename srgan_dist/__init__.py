"""Distributed training of super-resolution GANs for micro-CT rock images.

    import srgan_dist

    trained = srgan_dist.train("configs/demo.yaml", seed=1, **{"pretrain.steps": 500})
    generator = srgan_dist.load_generator("runs/demo/weights/adversarial.safetensors")
    sr = generator(lr)  # numpy uint8 or uint16 [H, W] -> [s*H, s*W]

Names are imported when they are first used, so that importing the package does not import PyTorch.
"""

import importlib

__version__ = "0.2.0"

_MODULES = {
    "train": "api",
    "load_generator": "api",
    "from_pretrained": "api",
    "super_resolve": "api",
    "evaluate": "api",
    "export": "api",
    "build": "api",
    "read_pairs": "images",
    "bicubic": "images",
    "otsu_threshold": "images",
    "rock_measures": "images",
    "open_set": "data.split",
    "UserError": "utils.errors",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
