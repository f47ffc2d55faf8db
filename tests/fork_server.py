"""Python commands as forks of one process that has imported PyTorch, Accelerate and srgan_dist (Linux).

Importing them takes seconds, a fork milliseconds. A forked command is a process like any other: a child of
the process that asked for it, with its own command line, session, environment and pipes, and with the
interpreter's own exit. Launchers (torchrun, launch/ranks.py, accelerate launch) fork their ranks in the same
way. Four things differ from a new interpreter: PYTHONPATH, OMP_NUM_THREADS=1, MALLOC_ARENA_MAX=2 and the
hashes of strings are those of the server.
"""

import ctypes
import functools
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # of prctl(2): orphans below this process become its children
MAX_REQUEST = 2**17  # bytes
LAUNCHERS = {"run.py", "launch.py", "ranks.py", "accelerate"}
LIBRARIES = [
    "accelerate.commands.launch",
    "fsspec.implementations.http",
    "torch.distributed.run",
    "torchvision.models",
    "srgan_dist.evaluation.report",
    "srgan_dist.training",
]
ROOM = 4096  # bytes for the command line of a fork
REPOSITORY = Path(__file__).parent.parent


class Forked(subprocess.Popen):
    """A process [sys.executable, ...] that starts as a fork; `requests` is the socket to its server."""

    def __init__(self, requests, *arguments, **options):
        self.requests = requests
        super().__init__(*arguments, **options)

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others):
        read, _, _, written, _, errors = others[3:9]
        new_session = others[-2]
        request = {
            "words": [str(word) for word in args],
            "cwd": str(cwd or os.getcwd()),
            "env": {**(os.environ if env is None else env)},
            "group": None if new_session else os.getpgrp(),
        }
        files = [number if file == -1 else file for number, file in enumerate((read, written, errors))]
        socket.send_fds(self.requests, [json.dumps(request).encode()], files)
        self.pid = int(self.requests.recv(64))
        self._child_created = True
        for file in {read, written, errors} - {-1}:
            os.close(file)


@functools.cache
def server():
    """Start the server of this process and return the socket for requests; it ends with this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    settings["MALLOC_ARENA_MAX"] = "2"  # with one per thread each keeps blocks, which look like a leak
    os.posix_spawn(
        sys.executable,
        [sys.executable, __file__, "-" * ROOM],
        os.environ | settings,
        file_actions=[(os.POSIX_SPAWN_DUP2, its.fileno(), number) for number in (0, 1)],
        setsid=True,
    )
    its.close()
    return own


def serve(requests):
    """Fork for every request; returns in the forks, with the words of their commands."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
        if not message:
            os._exit(0)
        pid_read, pid_write = os.pipe()
        if not (middle := os.fork()):  # ends at once: its child becomes one of the process that asked
            middle = os.getpid()
            if child := os.fork():
                os.write(pid_write, str(child).encode())
                os._exit(0)
            while os.getppid() == middle:
                time.sleep(0.001)
            for file in (pid_read, pid_write):
                os.close(file)
            requests.close()
            return become(json.loads(message), files)
        os.waitpid(middle, 0)
        requests.send(os.read(pid_read, 64))
        for file in (pid_read, pid_write, *files):
            os.close(file)


def become(request, files):
    """Make this fork the process that a request describes; returns the words after the interpreter's name."""
    if request["group"] is None:
        os.setsid()
    else:
        os.setpgid(0, request["group"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # TMPDIR may be another
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_command_line(request["words"])
    return request["words"][1:]


def set_command_line(words):
    """Let /proc show the words as this process's command line, in the room that the server's own has."""
    with open("/proc/self/stat") as file:
        first, last = map(int, file.read().rpartition(")")[2].split()[45:47])
    line = b"".join(os.fsencode(word) + b"\0" for word in words)
    ctypes.memmove(first, line[: last - first - 1].ljust(last - first, b"\0"), last - first)


def fork_python_commands():
    """Let subprocess.Popen fork Python commands too, from a fork of this process without threads."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Ctrl-C in a hook of fork would be lost, and logging stay locked
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if not child:
        own.close()
        os.setpgid(0, 0)
        set_command_line(["fork server"])
        for number in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        return serve(its)
    its.close()
    execute = subprocess.Popen._execute_child

    def execute_child(self, args, *others):
        if args[0] != sys.executable:
            return execute(self, args, *others)
        self.requests = own
        return Forked._execute_child(self, args, *others)

    subprocess.Popen._execute_child = execute_child
    return None


def run(words):
    """Run the words of a command as the interpreter does: [-u] (-c CODE | -m MODULE | SCRIPT) ARGUMENTS."""
    if words[0] == "-u":
        words = words[1:]
        sys.stdout.reconfigure(write_through=True)
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        return
    module = words[0] == "-m"
    script = find_spec(words[1]).origin if module else words[0]
    if Path(script).name in LAUNCHERS and (rank := fork_python_commands()):
        return run(rank)
    sys.argv = [script, *words[1 + module :]]
    sys.path[0] = os.getcwd() if module else str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


def import_libraries():
    """Import what every command imports, before any fork."""
    for name in LIBRARIES:
        import_module(name)
    gc.freeze()  # a collection in a fork would copy every page
    assert len(os.listdir("/proc/self/task")) == 1, "a thread has started, which forks would lack"


if __name__ == "__main__":
    import_libraries()
    run(serve(socket.socket(fileno=os.dup(0))))
