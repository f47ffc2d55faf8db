"""Options of `accelerate launch` that a training cannot follow, by the variables that it sets for them."""

import os

from srgan_dist.utils.errors import UserError

# Variable -> option of one that would spread the networks over ranks
SHARDING = {
    "ACCELERATE_USE_FSDP": "--use_fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
}


def check_launch_options():
    """Raise UserError for options whose work this program does not do, or in a way of its own."""
    for variable, option in SHARDING.items():
        if os.environ.get(variable, "false").lower() in ("true", "1", "yes"):
            raise UserError(
                f"{variable}={os.environ[variable]} ({option}): every rank holds whole networks here; use"
                " --multi_gpu instead. gradient_accumulation_steps and activation_checkpointing: true save"
                " memory"
            )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise UserError(
            f"ACCELERATE_DYNAMO_BACKEND={backend} (--dynamo_backend) is not used here; set compile: true in"
            " the config instead"
        )


def ignored_options(precision, accumulation):
    """Return a line for each option that has no effect, as the config decides. Accelerate sets its variables
    also where no option was given; then they say "no" and 1.

    precision: "no" or "bf16", that of the training. accumulation: its gradient_accumulation_steps.
    """
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    micro_batches = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    lines = []
    if wanted not in ("no", precision):
        value = "bf16" if wanted == "bf16" else "bf16 or no"
        lines.append(
            f"ACCELERATE_MIXED_PRECISION={wanted} (accelerate launch --mixed_precision) has no effect, the"
            f" precision is {precision}; set mixed_precision: {value} in the config"
        )
    if micro_batches not in ("1", "auto", str(accumulation)):
        lines.append(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={micro_batches} has no effect, an update has"
            f" {accumulation} micro-batch(es); set gradient_accumulation_steps: {micro_batches} in the config"
        )
    return lines
