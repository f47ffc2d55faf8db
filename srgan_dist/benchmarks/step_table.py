"""The rows of the step benchmark as text: columns, the line that describes the machine, headings."""

from srgan_dist.benchmarks.names import PLAIN

COLUMNS = {  # heading -> (key, format)
    "phase": ("phase", "<12"),
    "blocks": ("blocks", ">6"),
    "batch": ("batch", ">6"),
    "variant": ("variant", "<29"),
    "ms/step": ("step_ms", ">9.1f"),
    "samples/s": ("samples_per_second", ">10.2f"),
    "x plain": ("times_plain", ">8.2f"),
    "x ddp": ("times_ddp", ">8.2f"),
    "of floor": ("share_of_floor", ">9.0%"),
    "GFLOP/sample": ("gflop_per_sample", ">13.1f"),
    "peak MiB": ("peak_mib", ">9.0f"),
    "weak scaling": ("weak_scaling", ">13.1%"),
}
CLOCKS = {"cpu": "CPU time", "wall": "wall time", "cuda": "CUDA events"}


def columns_of(results):
    """Return the columns for which this measurement can have values: {heading: (key, format)}."""
    machine = results["machine"]
    has_values = {
        "times_plain": PLAIN in machine["variants"],
        "weak_scaling": machine["ranks"] > 1,
        "times_ddp": any(variant.startswith("ddp-") for variant in machine["variants"]),
    }
    return {title: column for title, column in COLUMNS.items() if has_values.get(column[0], True)}


def describe(results):
    """Return one line on the machine, the ranks, the clock and the speed of a large matrix product."""
    machine = results["machine"]
    peaks = ", ".join(
        f"{machine[f'matmul_gflops_{precision}']:,.0f} GFLOP/s in {dtype}"
        for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
        if f"matmul_gflops_{precision}" in machine
    )
    return (
        f"{machine['cpu']}; {machine['device']}; PyTorch {machine['torch']}; {machine['ranks']} rank(s) of"
        f" {machine['threads']} thread(s); {CLOCKS[machine['clock']]}, median of {machine['passes']}; a"
        f" large matrix product: {peaks}"
    )


def format_head(results):
    """Return the lines above the rows: the description, and headings."""
    headings = [_cell(title, form) for title, (_, form) in columns_of(results).items()]
    return f"{describe(results)}\n" + "  ".join(headings)


def format_row(row, results):
    """Return a row as a line."""
    if "error" in row:
        cells = [_cell(row[key], COLUMNS[key][1]) for key in ("phase", "blocks", "batch", "variant")]
        return "  ".join([*cells, row["error"]])
    return "  ".join(_cell(row.get(key), form) for key, form in columns_of(results).values())


def _cell(value, form):
    """Return a value in its format; a heading, or - for a missing value, in the width of the column."""
    if value is None or isinstance(value, str):
        return format(value or "-", form.rstrip("f%").partition(".")[0])
    return format(value, form)
