"""The process that talks to further trackers (TensorBoard, MLflow, ...), by those of Accelerate, so that none
of them can stop or slow the training.

It reads the messages of `wandb_worker.py`, and like it imports nothing else of the package.
"""

import json
import signal
import sys

import numpy as np
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from PIL import Image


def main():
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            # Signals are for the training, which sends a message when it ends
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        record(map(json.loads, sys.stdin))
    except Exception as error:  # whatever it is, the training goes on
        sys.exit(f"a tracker failed; metrics.jsonl has what it lacks ({type(error).__name__}: {error})")


def record(messages):
    """Start the trackers and log records and panels; tables are wandb's."""
    opening = next(messages)
    project = ProjectConfiguration(project_dir=opening["directory"], logging_dir=opening["directory"])
    accelerator = Accelerator(cpu=True, log_with=opening["trackers"], project_config=project)
    accelerator.init_trackers(opening["project"], config=dict(_flat(opening["settings"])))
    for message in messages:
        if "numbers" in message:
            numbers = {name: value for name, value in message["numbers"].items() if value is not None}
            accelerator.log(numbers, step=message["step"])
        elif "panels" in message:
            _show(accelerator.trackers, **message)
        elif "summary" in message:
            break
    accelerator.end_training()


def _flat(settings, name=""):
    """Yield (dotted name, value) of nested settings; values are numbers and texts."""
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from _flat(value, f"{name}.{key}" if name else key)
    else:
        yield name, settings if isinstance(settings, (bool, int, float, str)) else json.dumps(settings)


def _show(trackers, panels, name, step, x_axis):
    with Image.open(panels["path"]) as picture:
        pixels = np.asarray(picture)
    for tracker in trackers:
        if tracker.name == "tensorboard":  # of those with images each has a format of its own
            for number, (_, top, bottom) in enumerate(panels["bands"]):
                images = {f"{name}/{number}": pixels[None, top:bottom]}
                tracker.log_images(images, step=step, dataformats="NHWC")


if __name__ == "__main__":
    main()
