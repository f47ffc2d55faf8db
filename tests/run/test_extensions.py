"""A new phase and a new generator from outside of the package."""

from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from conftest import tiny_config
from pydantic import Field, create_model

from srgan_dist.config import Config
from srgan_dist.evaluation.report import evaluate
from srgan_dist.models import GENERATORS
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.models.weights_file import load_generator
from srgan_dist.phases import PHASES
from srgan_dist.phases.pretrain import PretrainConfig, PretrainPhase
from srgan_dist.training import train
from srgan_dist.utils.settings import Settings


def test_a_new_phase_is_a_class_a_line_and_a_field(shards, tmp_path, monkeypatch):
    class PolishConfig(PretrainConfig):
        steps: int = 3

    class PolishPhase(PretrainPhase):
        pass

    monkeypatch.setitem(PHASES, PolishConfig, PolishPhase)
    WithPolish = create_model("WithPolish", __base__=Config, polish=(PolishConfig, PolishConfig()))
    config = WithPolish.model_validate(tiny_config(shards, tmp_path).model_dump(mode="json"))
    trained = train(config)
    assert (
        list(trained.state.phase_ends) == ["pretrain", "adversarial", "polish"]
        and trained.state.global_step == 13
    )
    table = evaluate(tmp_path / "tiny", shards, tmp_path / "eval", ["valid"], Accelerator())
    assert [line.split()[2] for line in table.splitlines()[2:6]] == ["bicubic", "phase", "phase", "polish"]


def test_a_new_generator_is_a_class_and_a_line(shards, tmp_path, monkeypatch):
    class WideConfig(Settings):
        name: Literal["wide"]
        scale: int = 4
        ndim: int = 2

    class Wide(torch.nn.Module):
        tile_overlap = 2

        def __init__(self, config):
            super().__init__()
            self.config = config
            self.conv = torch.nn.Conv2d(1, 16, 5, padding=2)

        def forward(self, lr):
            return torch.nn.functional.pixel_shuffle(self.conv(lr), 4)

    either = Annotated[SRResNetConfig | WideConfig, Field(discriminator="name")]
    monkeypatch.setitem(GENERATORS, WideConfig, Wide)
    monkeypatch.setattr("srgan_dist.models.weights_file.GeneratorConfig", either)
    WithWide = create_model("WithWide", __base__=Config, generator=(either, SRResNetConfig()))
    raw = tiny_config(shards, tmp_path, adversarial=None).model_dump(mode="json")
    trained = train(WithWide.model_validate(raw | {"generator": {"name": "wide"}}))
    loaded, _ = load_generator(tmp_path / "tiny" / "weights" / "pretrain.safetensors")
    assert isinstance(loaded, Wide) and torch.equal(loaded.conv.weight, trained.generator.conv.weight)
