"""A report of runs in wandb: python launch/wandb/report.py RUN [RUN ...] [--json FILE]"""

from srgan_dist.cli.report import main

if __name__ == "__main__":
    main()
