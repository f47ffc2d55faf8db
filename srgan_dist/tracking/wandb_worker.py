"""The process that talks to wandb, so that no wait, error or hang of wandb reaches the training.

It reads JSON lines: first how to open the run, then records, panels and tables, at last the end. If they stop
without an end the training was killed; the run is then closed as failed. It imports nothing else of the
package.
"""

import contextlib
import json
import os
import signal
import sys
import time

STOPPED = 85  # exit code of a training that a signal stopped after it had saved, to be continued
PRIVATE = {  # command line, host name, source code and list of packages are not recorded; the config is, and
    # the load of processors and memory
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_save_requirements": False,
    "host": "",
}


def main():
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            # Signals are for the training, which sends a message when it ends
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    try:
        record(map(json.loads, sys.stdin))
    except Exception as error:  # whatever it is, the training goes on
        sys.exit(f"wandb failed; metrics.jsonl has what it lacks ({type(error).__name__}: {error})")


def record(messages):
    """Open a run and log its records, panels and tables."""
    run = _start(**next(messages))
    for message in messages:
        if "numbers" in message:
            run.log(message["numbers"], step=message["step"])
        elif "panels" in message:
            _show(run, **message)
        elif "table" in message:
            _show_table(run, **message)
        else:
            return _finish(run, **message)
    _finish(run, {}, exit_code=1)


def _start(mode, options, settings, x_axis):
    try:
        run = _open(mode, options, settings)
    except Exception as error:  # no key, no network, refused
        if mode == "offline":
            raise
        _tell(
            "wandb cannot be reached, so it records offline; `wandb sync` can send it later"
            f" ({type(error).__name__}: {error})"
        )
        _end_service()
        run = _open("offline", options, settings)
    run.define_metric(x_axis)
    run.define_metric("*", step_metric=x_axis)
    if run.url:
        _tell(f"wandb: {run.url}")
    return run


def _open(mode, options, settings):
    import wandb

    return wandb.init(mode=mode, resume="allow", settings=wandb.Settings(**settings, **PRIVATE), **options)


def _finish(run, summary, exit_code):
    run.summary.update(summary)
    if exit_code == STOPPED:
        run.mark_preempting()
    timeout, began = run.settings.finish_timeout, time.monotonic()
    url, folder = run.url, os.path.relpath(run.settings.sync_dir)
    run.finish(exit_code)
    _tell(f"wandb: {url}" if url else f"wandb recorded offline; `wandb sync {folder}` sends it")
    if time.monotonic() - began >= timeout:
        raise TimeoutError("the server has not taken everything; `wandb sync` can send it later")


def _tell(text):
    with contextlib.suppress(OSError):  # nobody reads
        print(text, file=sys.stderr, flush=True)


def _end_service():
    """End wandb's service, which would refuse the run's id a second time as still in use."""
    import wandb

    wandb.teardown()


def _show(run, panels, name, step, x_axis):
    import wandb
    from PIL import Image

    with Image.open(panels["path"]) as picture:
        images = [
            wandb.Image(picture.crop((0, top, picture.width, bottom)), caption=caption)
            for caption, top, bottom in panels["bands"]
        ]
    run.log({x_axis: step, name: images}, step=step)


def _show_table(run, table, name, step, x_axis):
    """Log a table, or do without: unlike a record it needs the server at once, where it is online."""
    import wandb

    try:
        run.log({x_axis: step, name: wandb.Table(**table)}, step=step)
    except Exception as error:  # no answer, an account without the right
        _tell(f"wandb has no table {name} ({type(error).__name__}: {error})")


if __name__ == "__main__":
    main()
