"""torchrun with stop and resume: python launch/ranks.py --nproc_per_node 8 launch/train.py CONFIG

Without a checkout: python -m srgan_dist.runtime.ranks --nproc_per_node 8 -m srgan_dist train CONFIG

Takes the options that `torchrun --help` lists, with these differences:

- SIGUSR1 is passed on too (it would kill torchrun), SIGHUP is not under nohup.
- Ranks have 150 s to save instead of 30 (--shutdown-timeout, where PyTorch has it).
- Where all ranks saved and exited, the exit code is their own, 85 (torchrun's would be 1). A training that
  was asked to stop is not restarted.
- Where ranks have printed their errors it adds no traceback, and no warning of OMP_NUM_THREADS=1.
- --max-restarts works: by default restarted ranks find the addresses of the dead ones in the store that all
  attempts share (pytorch issue 135712). Ranks that the launcher stops to restart them, e.g. because a node
  came back, save first.
"""

import os
import sys

from srgan_dist.runtime.parent_death import LAUNCHER_PID
from srgan_dist.utils.output import surviving_output


def main():
    with surviving_output():
        if sys.argv[1:] in (["-h"], ["--help"]):
            print(__doc__, end="")
            return
        try:
            from srgan_dist.runtime.elastic_agent import run_ranks

            os.environ[LAUNCHER_PID] = str(os.getpid())
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun sets it, with a warning in five lines
            os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
            code, message = run_ranks(sys.argv[1:])
        except KeyboardInterrupt:  # before there are ranks
            code, message = 130, "interrupted"
        if message:
            print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
