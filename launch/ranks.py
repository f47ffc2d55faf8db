"""torchrun for trainings that may be stopped: python launch/ranks.py --nproc_per_node 8 launch/train.py CONFIG

Takes torchrun's options. These things differ: SIGUSR1 is passed on too (torchrun would die of it) and SIGHUP is not (so
that nohup helps); ranks have 150 s to save instead of 30 (--shutdown-timeout, where PyTorch knows it); where a signal
stopped the training after saving, it stays stopped and the exit code is its own, 85 (torchrun's would be 1); and
--max-restarts works: by default restarted ranks find the addresses of the dead ones in the store that all attempts share
(pytorch issue 135712).
"""

import os
import sys
import tempfile
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from srgan_dist.errors import STOPPED, STOPPED_FILE

DEFAULTS = ["--signals-to-handle=SIGTERM,SIGINT,SIGQUIT,SIGUSR1"]
if "--shutdown-timeout" in run.get_args_parser().format_help():  # not in PyTorch 2.10
    DEFAULTS.append("--shutdown-timeout=150")


def main():
    with tempfile.TemporaryDirectory(prefix="srgan_dist_ranks_") as folder:
        stopped = Path(folder) / "stopped"
        os.environ[STOPPED_FILE] = str(stopped)
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        try:
            run.run(run.parse_args([*DEFAULTS, *sys.argv[1:]]))
            code = 0
        except ChildFailedError as error:
            code = 1
            if not stopped.exists():
                print(error, file=sys.stderr)
        except SignalException as ended:
            code = 128 + ended.sigval
        sys.exit(STOPPED if code and stopped.exists() else code)


if __name__ == "__main__":
    main()
