"""Tables of speed as Markdown, from the files that the benchmarks write with --json."""

import json

from srgan_dist.benchmarks.loader import LARGE, LINES, RESUMED, UPDATES
from srgan_dist.benchmarks.step import columns_of, describe
from srgan_dist.utils.errors import UserError


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


def table_of(found):
    """Return the tables of one measurement."""
    if "stages" in found:
        return "\n\n".join(of_stage(name, found) for name in found["stages"])
    return _of_steps(found) if "rows" in found else _of_loader(found)


def _of_steps(found):
    columns = {
        title: column
        for title, column in columns_of(found).items()
        if any(row.get(column[0]) is not None for row in found["rows"])
    }
    rows = [
        [
            row["error"] if title == "ms/step" and "error" in row else _shown(row.get(key), form)
            for title, (key, form) in columns.items()
        ]
        for row in found["rows"]
    ]
    left_out = f"\n\nLeft out {found['left_out']}." if "left_out" in found else ""
    return f"{describe(found)}\n\n{_markdown(list(columns), rows)}{left_out}"


def _of_loader(found):
    device = found["machine"]["device"]
    rows = [
        [
            text.replace("the device", device),
            f"{found[name]:,.0f}",
            f"{found['srgan_dist'] / found[name]:.1f}",
        ]
        for name, text in LINES.items()
    ]
    times = "; ".join(
        f"entered at update {update:,}: {milliseconds:.1f} ms"
        for update, milliseconds in zip(UPDATES, found["first_batch_ms"], strict=True)
    )
    memory = "unknown" if found["private_mib"] is None else f"{found['private_mib']:,.0f} MiB"
    return (
        f"{_said(found['machine'])}; one thread; CPU time, median of {found['passes']}\n\n"
        f"{_markdown(['way of reading', 'pairs/s per core', 'ours is x'], rows)}\n\n"
        f"First batch of {RESUMED:,} pairs, {times}. Private memory after {LARGE:,} pairs: {memory}."
    )


def of_stage(name, found):
    """Return the tables of one stage of `benchmark.py gpu`."""
    facts, machine = found["stages"][name], _said(found["stages"].get("machine", {}).get("facts", {}))
    head = f"**{name}** ({facts.get('seconds', 0)} s; {machine})"
    if "rows" in facts:
        keys = {
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
        body = _markdown(
            list(keys),
            [
                [
                    row["error"] if key == "step_ms" and "error" in row else _shown(row.get(key), form)
                    for key, form in keys.items()
                ]
                for row in facts["rows"]
            ],
        )
    else:
        body = _markdown(
            ["figure", "value"],
            [
                [key, json.dumps(value)]
                for key, value in facts.items()
                if key not in ("seconds", "facts", "error")
            ],
        )
    return f"{head}\n\n{body}" + (f"\n\nFailed: {facts['error']}" if "error" in facts else "")


def _said(machine):
    return "; ".join(
        f"{name} {value}" if name not in ("cpu", "device") else str(value) for name, value in machine.items()
    )


def _shown(value, form):
    if value is None:
        return ""
    return (
        str(value)
        if isinstance(value, str)
        else format(value, f",{form.lstrip('<>0123456789')}" if form else "")
    )


def _markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
