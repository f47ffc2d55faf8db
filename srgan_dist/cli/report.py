"""A report of runs in wandb: srgan-dist report RUN [RUN ...] [--json FILE]"""

import argparse
import os
from pathlib import Path

from srgan_dist.utils.errors import cli_errors


def main(argv=None, prog=None):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make a report in wandb: titled panels of all that runs have logged, their images and"
        " tables of scores. The runs have to be there: recorded online, or sent with `wandb sync`. The key of"
        " the account is that of WANDB_API_KEY or of `wandb login`.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, e.g. runs/demo")
    parser.add_argument("--title", help="(default: the names of the runs)")
    parser.add_argument(
        "--project", help="of wandb (default: tracking.project of the runs, or WANDB_PROJECT, or srgan_dist)"
    )
    parser.add_argument(
        "--entity",
        help="user or team of wandb (default: tracking.entity of the runs, or WANDB_ENTITY, or your own)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the report's specification there; no account, nothing is sent"
    )
    arguments = parser.parse_args(argv)

    from srgan_dist.tracking.wandb_report import read_run, report_of, save_report, specification
    from srgan_dist.utils.files import atomic_write

    os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    with cli_errors():
        runs = [read_run(path) for path in arguments.runs]
        entity = arguments.entity or runs[0].entity or os.environ.get("WANDB_ENTITY") or ""
        report = report_of(runs, arguments.title, arguments.project, entity)
        if arguments.json:
            with atomic_write(Path(arguments.json)) as unfinished:
                unfinished.write_text(specification(report))
            print(f"{arguments.json}: the specification of a report in project {report.project} of wandb")
        else:
            print(save_report(report, [id for run in runs for id in run.ids]))
