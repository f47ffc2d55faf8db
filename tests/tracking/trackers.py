"""A tracker of a run, and how its records compare with those of wandb."""

import json

from srgan_dist.tracking.tracker import Tracker, TrackingConfig


def tracker(
    folder,
    mode="disabled",
    run_id=None,
    is_main=True,
    settings=None,
    seen=None,
    init_timeout=20.0,
    finish_timeout=60.0,
    also=(),
):
    config = TrackingConfig(
        wandb=mode, init_timeout=init_timeout, finish_timeout=finish_timeout, also=list(also)
    )
    return Tracker(config, folder, "tiny", settings or {"seed": 3}, run_id, is_main, seen)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rows_of(folder):
    """Return metrics.jsonl as wandb's rows: all that is recorded at one position in one, without the time."""
    rows = {}
    for record in records(folder):
        rows.setdefault(record["samples_seen"], {}).update(
            {name: value for name, value in record.items() if name != "time"}
        )
    return list(rows.values())


def without_media(rows):
    """Return wandb's rows without what it has of panels and tables."""
    return [
        {
            name: value
            for name, value in row.items()
            if not name.startswith(("samples/", "scores/", "measures/"))
        }
        for row in rows
    ]


def exit_codes(session):
    return [record.exit.exit_code for record in session if record.WhichOneof("record_type") == "exit"]
