"""The perceptual loss: difference of VGG-19 features (Ledig et al. 2017, equation 5; Simonyan & Zisserman
2015).
"""

import pickle
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of
from srgan_dist.utils.memory import raise_out_of_memory
from srgan_dist.utils.settings import Settings

# layer name -> number of modules of torchvision's vgg19().features up to and including it
LAYERS = {"relu2_2": 9, "relu3_4": 18, "relu4_4": 27, "conv5_4": 35, "relu5_4": 36, "pool5": 37}
POOLINGS = (4, 9, 18, 27, 36)  # which of these modules halve the image
TORCHVISION_FILE = "vgg19-dcbb9e9d.pth"  # torchvision names it by the start of its sha256


class VGGLossConfig(Settings):
    """Mean squared difference of VGG-19 features."""

    name: Literal["vgg19"]
    weight: float = Field(
        1e-5,
        gt=0,
        description="factor in the sum of losses: the paper's alpha, whose network had"
        " features of another scale (Caffe's weights): look at the panel before trusting it",
    )
    layer: Literal[tuple(LAYERS)] = Field(
        "relu5_4", description="whose output is compared (official code: pool5)"
    )
    weights: str = Field(
        "torchvision",
        description="torchvision: its file in the PyTorch cache; random: untrained, for tests; else a path"
        " to that file",
    )
    sha256: str = Field("dcbb9e9d", min_length=8, description="how the sha256 of the weight file must begin")

    slices_per_axis: int | None = Field(
        8,
        ge=1,
        le=1024,
        description="of volumes, slices along each axis that are compared, drawn for every update from the"
        " seed; null: all",
    )

    @property
    def smallest_crop(self):
        """The side in pixels of the smallest HR crop of which something is left at `layer`."""
        return 2 ** sum(module < LAYERS[self.layer] for module in POOLINGS)


class VGGLoss(nn.Module):
    """Compares sr and hr, both [B, 1, H, W] in [-1, 1], by a frozen VGG-19; sr carries the gradient, hr has
    none. Volumes [B, 1, D, H, W] are compared by slices along all three axes, the same of all volumes: of
    each axis one out of each of `slices_per_axis` equal parts, drawn by `begin`.

    Grey is repeated to three channels and normalised as VGG was trained; nothing is resized.
    """

    def __init__(self, config, scale):
        super().__init__()
        self.features = vgg19_features(config)[: LAYERS[config.layer]].requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

        parts = torch.arange(config.slices_per_axis or 1, dtype=torch.float32)
        self.register_buffer("parts", parts, persistent=False)
        self.register_buffer("positions", (parts + 0.5).repeat(3, 1), persistent=False)
        self.draws = config.slices_per_axis is not None

    def begin(self, seed, update):
        """Draw the slices of an update, a function of seed and update: ranks agree, and a resumed run repeats
        it. Along an axis all lie at one place of their parts, a number that needs no copy to the device.
        """
        for row, place in zip(self.positions, np.random.default_rng([seed, update]).random(3), strict=True):
            torch.add(self.parts, float(place), out=row)

    def forward(self, sr, hr):
        positions = self.positions if self.draws else None
        pairs = zip(slices_of(sr, positions), slices_of(hr, positions), strict=True)
        differences = [self._difference(*pair) for pair in pairs]
        return differences[0] if len(differences) == 1 else torch.stack(differences).mean()

    def _difference(self, sr, hr):
        with torch.no_grad():
            target = self._features_of(hr)
        return F.mse_loss(self._features_of(sr).float(), target.float())

    def _features_of(self, image):
        return self.features(((image + 1) / 2 - self.mean) / self.std)


def slices_of(images, positions=None):
    """Return images [B, 1, H, W] in a list, or slices of volumes [B, 1, D, H, W] along each axis, as batches
    of images: [[B*n, 1, H, W], [B*n, 1, D, W], [B*n, 1, D, H]].

    positions: [3, n], those of the slices along each axis of a volume, from 0 to n; None, or no fewer than
    there are: all.
    """
    if images.dim() == 4:
        return [images]
    found = []
    for number, axis in enumerate((2, 3, 4)):
        size, chosen = images.shape[axis], images
        if positions is not None and (count := positions.shape[1]) < size:
            index = (positions[number] * (size / count)).long().clamp(max=size - 1)  # rounding may give size
            chosen = images.index_select(axis, index)
        found.append(chosen.movedim(axis, 1).flatten(0, 1))
    return found


def vgg19_features(config):
    """Return VGG-19's convolutional part with the weights that `config` asks for."""
    if config.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same on every rank
            return make_layers(cfgs["E"], batch_norm=False)
    features, path = make_layers(cfgs["E"], batch_norm=False), checked_weights_file(config)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        features.load_state_dict(
            {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
        )
    except (pickle.UnpicklingError, AttributeError, RuntimeError) as error:
        raise_out_of_memory(error, path)
        raise UserError(f"weights={path} does not hold the weights of torchvision's vgg19: {error}") from None
    return features


def checked_weights_file(config):
    """Return the path of the weight file after checking that it is there and what it should be.

    Raises UserError that says how to get it.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILE
    path = cached if config.weights == "torchvision" else Path(config.weights)
    if not path.is_file():
        raise UserError(
            f"weights={config.weights}: the VGG-19 weights are not at {path}. Where there is internet, fetch"
            f" them"
            ' (550 MB) with\n    python -c "from torchvision.models import vgg19;'
            " vgg19(weights='IMAGENET1K_V1')\"\n"
            f"which puts {TORCHVISION_FILE} into that cache; copy it, or give its path as weights. To train"
            f" without"
            " this loss, leave it out, e.g. --adversarial.losses.perceptual=null"
        )
    facts = path.stat()
    digest = _digest(path, facts.st_size, facts.st_mtime_ns)
    if not digest.startswith(config.sha256):
        raise UserError(
            f"{path} has sha256 {digest}, which does not begin with sha256={config.sha256}:"
            " the file is damaged or another one; fetch it again, or give its own sha256"
        )
    return path


@lru_cache
def _digest(path, size, modified):
    """Return the sha256 of a file; it is 550 MB, so only once for one state of it."""
    return sha256_of(path)
