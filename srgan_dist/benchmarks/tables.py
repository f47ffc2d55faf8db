"""Tables of speed as Markdown, from the files that the benchmarks write with --json."""

import json

from srgan_dist.benchmarks.loader import LARGE, LINES, RESUMED, UPDATES, text_of_volumes
from srgan_dist.benchmarks.step_table import columns_of, describe
from srgan_dist.utils.errors import UserError

STAGE_COLUMNS = {  # key of a row -> format
    "phase": "",
    "blocks": "",
    "batch": "",
    "variant": "",
    "step_ms": ".2f",
    "host_ms": ".2f",
    "samples_per_second": ".0f",
    "share_of_floor": ".0%",
    "peak_mib": ".0f",
}


def run(arguments, save):
    """Print the tables of every file, one file after the other."""
    for path in arguments.files:
        try:
            with open(path) as file:
                print(table_of(json.load(file)) + "\n")
        except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path} is no file of benchmark.py loader, step or gpu ({type(error).__name__}: {error})"
            ) from None


def table_of(results):
    """Return the tables of one measurement."""
    if "stages" in results:
        return "\n\n".join(table_of_stage(name, results) for name in results["stages"])
    return _table_of_steps(results) if "rows" in results else _table_of_loader(results)


def _table_of_steps(results):
    columns = {
        title: column
        for title, column in columns_of(results).items()
        if any(row.get(column[0]) is not None for row in results["rows"])
    }
    rows = [_cells(row, columns.values()) for row in results["rows"]]
    left_out = f"\n\nLeft out {results['left_out']}." if "left_out" in results else ""
    return f"{describe(results)}\n\n{_markdown(list(columns), rows)}{left_out}"


def _table_of_loader(results):
    device = results["machine"]["device"]
    ours = results["srgan_dist"]
    rows = [
        [text.replace("the device", device), f"{results[name]:,.0f}", f"{ours / results[name]:.1f}"]
        for name, text in LINES.items()
    ]
    times = "; ".join(
        f"entered at update {update:,}: {milliseconds:.1f} ms"
        for update, milliseconds in zip(UPDATES, results["first_batch_ms"], strict=True)
    )
    memory = "unknown" if results["private_mib"] is None else f"{results['private_mib']:,.0f} MiB"
    volumes = ""
    if "volumes" in results:  # older files have none
        volumes = f" Of {text_of_volumes()}: {results['volumes']:,.0f} pairs/s per core."
    return (
        f"{_describe_machine(results['machine'])}; one thread; CPU time, median of {results['passes']}\n\n"
        f"{_markdown(['way of reading', 'pairs/s per core', 'ours is x'], rows)}\n\n"
        f"First batch of {RESUMED:,} pairs, {times}. Private memory after {LARGE:,} pairs: {memory}.{volumes}"
    )


def table_of_stage(name, results):
    """Return the table of one stage of `srgan-dist benchmark gpu`."""
    facts = results["stages"][name]
    machine = _describe_machine(results["stages"].get("machine", {}).get("facts", {}))
    head = f"**{name}** ({facts.get('seconds', 0)} s; {machine})"
    if "rows" in facts:
        body = _markdown(list(STAGE_COLUMNS), [_cells(row, STAGE_COLUMNS.items()) for row in facts["rows"]])
    else:
        figures = {key: json.dumps(facts[key]) for key in facts if key not in ("seconds", "facts", "error")}
        body = _markdown(["figure", "value"], figures.items())
    return f"{head}\n\n{body}" + (f"\n\nFailed: {facts['error']}" if "error" in facts else "")


def _describe_machine(machine):
    return "; ".join(
        str(value) if name in ("cpu", "device") else f"{name} {value}" for name, value in machine.items()
    )


def _cells(row, columns):
    """Return the cells of a row for columns of (key, format); an error is in place of the time of a step."""
    return [
        row["error"] if key == "step_ms" and "error" in row else _cell(row.get(key), form)
        for key, form in columns
    ]


def _cell(value, form):
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return format(value, f",{form.lstrip('<>0123456789')}" if form else "")


def _markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
