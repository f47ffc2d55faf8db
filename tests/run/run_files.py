"""Records and settings of the runs in these tests."""

import json


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def with_steps(config, **changes):
    """Replace settings of both phases or of the top level."""
    phases = {
        name: getattr(config, name).model_copy(update=changes.pop(name))
        for name in ("pretrain", "adversarial")
        if name in changes
    }
    return config.model_copy(update=changes | phases)
