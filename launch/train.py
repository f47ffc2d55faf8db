"""Train an experiment: accelerate launch launch/train.py [CONFIG] [options] [--any.field=value]

On a CPU, without a launcher, it starts one rank per core (setting cpu_ranks). Exit codes: cli/train.py.
"""

from srgan_dist.cli.train import main

if __name__ == "__main__":
    main()
