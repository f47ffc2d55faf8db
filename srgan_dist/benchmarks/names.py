"""Names of phases, variants and stages of the benchmarks; free of PyTorch, for the options."""

import itertools

from srgan_dist.utils.config_files import config_file

# Of the step benchmark by the number of dimensions; the first is that of the gpu benchmark
DEFAULT_CONFIGS = {2: config_file("report_x4.yaml"), 3: config_file("deeprock3d_x4.yaml")}
DEFAULT_CONFIG = DEFAULT_CONFIGS[2]
PHASES = ("pretrain", "adversarial")
PLAIN = "plain"  # the loop of the report
VARIANTS = {  # name -> settings; those that begin with ddp- are the textbook loop, the others ours
    f"{loop}{precision}{'-channels_last' * channels_last}{'-compiled' * compiled}": {
        "mixed_precision": "bf16" if precision == "bf16" else "no",
        "channels_last": channels_last,
        "compile": compiled,
    }
    for loop, compiled, precision, channels_last in itertools.product(
        ("", "ddp-"), (False, True), ("fp32", "bf16"), (False, True)
    )
    if not (loop and compiled)
}
STAGES = ("machine", "agreement", "step", "tests", "rocks", "batches", "graph", "compiled", "others")
