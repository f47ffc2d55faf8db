"""An experiment: one YAML file, typed, complete, with errors that name field, value, rule and the nearest
real key.
"""

import copy
import io
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from ruamel.yaml import YAML

from srgan_dist.config_errors import ConfigError, explain_faults
from srgan_dist.data.data_config import DataConfig
from srgan_dist.losses import VGGLossConfig
from srgan_dist.losses.covariance import CovarianceLossConfig
from srgan_dist.losses.stationarity import SMALLEST_LR_CROP, StationarityLossConfig
from srgan_dist.models import DiscriminatorConfig, GeneratorConfig, noise_channels
from srgan_dist.models.discriminator import DenseDiscriminatorConfig
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.phases.adversarial import AdversarialConfig
from srgan_dist.phases.phase import PhaseConfig, check_begins_first
from srgan_dist.phases.pretrain import PretrainConfig
from srgan_dist.storage.remote import is_url
from srgan_dist.tracking.tracker import TrackingConfig
from srgan_dist.utils.config_files import config_file
from srgan_dist.utils.files import open_regular
from srgan_dist.utils.settings import Path, Settings
from srgan_dist.utils.yaml_text import MAX_CHARACTERS, parse_yaml


def _no_fp16(value):
    if value == "fp16":
        raise ValueError(
            "fp16 needs a loss scaler per network, and Accelerate keeps one for both, which it would update"
            " twice per step; use bf16 (same speed, no scaler) or no"
        )
    return value


def _file_name(name):
    usable = (
        name.isprintable()
        and name == name.strip()
        and not name.startswith(".")
        and not set(name) & set('/\\:*?"<>|')
    )
    if not name or not usable or len(name.encode()) > 200:
        raise ValueError("must be usable as the name of a folder, e.g. deeprock_x4")
    return name


def _no_url(path):
    if is_url(path):
        raise ValueError("is a URL; a run is written to a folder, give its path")
    return path


class Config(Settings):
    """One experiment."""

    name: Annotated[str, AfterValidator(_file_name)] = Field(
        description="of the run; its directory is output/name"
    )
    output: Annotated[Path, AfterValidator(_no_url)] = Field(
        "runs", description="folder of the run directories"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="decides initial weights, order of samples, crops")
    mixed_precision: Annotated[Literal["no", "bf16", "auto"], BeforeValidator(_no_fp16)] = Field(
        "bf16",
        description="no: float32; bf16: convolutions in bfloat16, weights and losses in float32;"
        " auto: bf16 where the device computes it by hardware",
    )
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        le=2**20,
        description="micro-batches in which each rank computes its share of an update, for memory's sake",
    )
    compile: bool = Field(
        False,
        description="compile networks and losses (torch.compile); needs a C++ compiler, or Triton on a GPU",
    )
    max_consecutive_skips: int = Field(
        20,
        ge=1,
        description="updates in a row that are skipped (a loss or a gradient is not finite, or a spike), at"
        " which the training stops",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="cuda: an error where there is no GPU; auto: the CPU there; cpu: even where there is one",
    )
    group_timeout_minutes: float = Field(
        30,
        ge=0.05,
        le=10_000,
        description="a rank that has waited so long for the others ends with an error; more than"
        " they ever wait, e.g. in reading data or in validation",
    )
    channels_last: bool = Field(
        True, description="memory format of the networks; faster on recent CPUs and GPUs"
    )
    activation_checkpointing: bool = Field(
        False,
        description="keep only the outputs of the generator's blocks for the backward pass and compute"
        " the rest again: less memory for a third more time in them, the same result",
    )
    cpu_ranks: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="processes of a training on CPU that no launcher has started; null: one per core, as far"
        " as they share the batch equally and have two crops each",
    )
    cpu_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="threads of a rank on CPU; null: as many of its share of the cores as pay, which is"
        " tried",
    )
    log_every: int = Field(50, ge=1, description="updates between two records of losses")
    validate_every: int = Field(1000, ge=1, description="updates between two validations")
    checkpoint_every: int | None = Field(
        1000,
        ge=1,
        description="updates between two checkpoints; null: by the clock alone, or none within a phase",
    )
    checkpoint_minutes: float | None = Field(
        None,
        gt=0,
        description="minutes after which a checkpoint is due whatever checkpoint_every says; null: never",
    )
    keep_checkpoints: int = Field(
        3,
        ge=1,
        description="newest checkpoints that are kept, beside those of the end and of the best validation of"
        " each phase",
    )
    num_sample_images: int = Field(
        4, ge=0, le=1000, description="validation images shown as panels, spread over the rocks"
    )
    data: DataConfig
    generator: GeneratorConfig = SRResNetConfig()
    discriminator: DiscriminatorConfig = DenseDiscriminatorConfig()
    pretrain: PretrainConfig | None = PretrainConfig()
    adversarial: AdversarialConfig | None = AdversarialConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _check_together(self):
        if not self.phases():
            raise ValueError("every phase is null: there is nothing to train")
        check_begins_first(self.phases())
        if self.needs_discriminator():
            try:
                self.discriminator.final_side(self.hr_crop)
                if isinstance(self.discriminator, DenseDiscriminatorConfig):
                    self.discriminator.check_size(self.hr_crop, self.generator.ndim)
            except ValueError as error:
                raise ValueError(
                    f"data.lr_crop={self.data.lr_crop} times generator.scale={self.generator.scale}: {error}"
                ) from None
            if self.compile and any(getattr(phase, "r1_gamma", None) for _, phase in self.phases()):
                raise ValueError(
                    "r1_gamma needs second derivatives, which compile=true has not; use one of them"
                )
        for name, phase in self.phases():
            if getattr(phase, "trains", "all") == "texture" and noise_channels(self.generator) == 0:
                raise ValueError(
                    f"{name}.trains=texture: generator.noise=0 makes no texture; use generator.noise=2, or"
                    f" {name}.trains=all"
                )
        for field in self.losses_of(StationarityLossConfig):
            if self.data.lr_crop < SMALLEST_LR_CROP:
                raise ValueError(
                    f"data.lr_crop={self.data.lr_crop}: {field} needs crops of {SMALLEST_LR_CROP} LR pixels"
                    " or more"
                )
        crop = (
            f"data.lr_crop={self.data.lr_crop} times generator.scale={self.generator.scale}: an HR crop of"
            f" {self.hr_crop} pixels"
        )
        for field, loss in self.losses_of(CovarianceLossConfig).items():
            if self.hr_crop < loss.block:
                raise ValueError(
                    f"{crop} holds no block of {field}.block={loss.block}; use {self.hr_crop} or less for it,"
                    " or larger crops"
                )
        for field, loss in self.losses_of(VGGLossConfig).items():
            if self.hr_crop < loss.smallest_crop:
                raise ValueError(
                    f"{crop} vanishes in VGG-19 before {field}.layer={loss.layer}; use {loss.smallest_crop}"
                    " or more, or another layer"
                )
        return self

    @property
    def hr_crop(self):
        return self.data.lr_crop * self.generator.scale

    def phases(self):
        """Return [(name, settings)] of the phases of this experiment, in the order of the fields."""
        return [
            (name, value)
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), PhaseConfig)
        ]

    def needs_discriminator(self):
        return any(phase.needs_discriminator and phase.weights is None for _, phase in self.phases())

    def losses_of(self, kind):
        """Return {field: settings} of every loss of a kind, by the class of its settings, that will be
        used.
        """
        return {
            f"{name}.losses.{key}": loss
            for name, phase in self.phases()
            if phase.weights is None
            for key, loss in phase.losses.items()
            if isinstance(loss, kind)
        }


# Reading


def load_config(path, overrides=(), model=None):
    """Read a YAML file as a Config (or `model`, a class that extends it) and apply overrides
    ("adversarial.learning_rate=5e-5"); raises ConfigError with all faults.
    """
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8") as file:
            raw = parse_yaml(file.read(MAX_CHARACTERS + 1))
    except FileNotFoundError:
        raise ConfigError(
            f"CONFIG={path} does not exist; {config_file('')} holds some to start from"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"CONFIG={path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"CONFIG={path} is not a table of settings")
    return parse_config(raw, path, model or Config, overrides)


def parse_config(raw, origin="config", model=Config, overrides=()):
    """Turn a nested dictionary, with overrides, into a Config, or a `model` that extends it; raises
    ConfigError that lists every fault.
    """
    raw = copy.deepcopy(raw)
    for override in overrides:
        _override(raw, override)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise explain_faults(error, raw, model, origin) from None


def dump_config(config):
    """Return the config as YAML text, every default spelt out; reading it gives an equal config."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 2**31  # a text that is folded can lose one of two spaces
    yaml.sort_base_mapping_type_on_output = False
    buffer = io.StringIO()
    yaml.dump(config.model_dump(mode="json"), buffer)
    return buffer.getvalue()


def differences(one, other):
    """Return "field: value -> value" for every setting in which two configs differ."""
    one, other = (flat(config.model_dump(mode="json")) for config in (one, other))
    return [
        f"{key}: {one.get(key, 'absent')} -> {other.get(key, 'absent')}"
        for key in dict.fromkeys([*one, *other])
        if one.get(key, "absent") != other.get(key, "absent")
    ]


def flat(table, prefix=""):
    """Turn nested dictionaries into one with dotted keys."""
    found = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _override(raw, text):
    """Set one value of the nested dictionary: text is "a.b.c=value", the value read as YAML."""
    path, equals, value = text.partition("=")
    *parents, last = path.split(".")
    if not equals or not all([*parents, last]):
        raise ConfigError(f"--{text} is not of the form --field=value, e.g. --adversarial.learning_rate=5e-5")
    if not value.strip():
        raise ConfigError(f"--{text} has no value; null leaves a phase or a loss out")
    try:
        value = parse_yaml(value)
    except ValueError as error:
        raise ConfigError(f"--{text}: the value is not YAML: {error}") from None
    for depth, parent in enumerate(parents):
        here = ".".join(parents[: depth + 1])
        if isinstance(raw, list):
            raw = raw[_position(raw, parent, text)]
        else:
            raw = raw.setdefault(parent, _default_losses(here))
        if not isinstance(raw, (dict, list)):
            raise ConfigError(
                f"--{text}: {here} is the value {'null' if raw is None else repr(raw)}, it has no fields"
            )
    raw[_position(raw, last, text) if isinstance(raw, list) else last] = value


def _position(items, step, text):
    """Return the position in a list that a step of a dotted name gives."""
    if not step.isdecimal() or int(step) >= len(items):
        raise ConfigError(f"--{text}: {step} is no position in a list of {len(items)}; the first is 0")
    return int(step)


def _default_losses(path):
    """Return what an override starts from where the file says nothing: the default losses of a phase, else an
    empty table.
    """
    phase, _, rest = path.partition(".")
    default = (
        Config.model_fields[phase].default if phase in Config.model_fields and rest == "losses" else None
    )
    return default.model_dump(mode="json")["losses"] if isinstance(default, PhaseConfig) else {}
