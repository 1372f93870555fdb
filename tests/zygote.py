"""A process that has imported the heavy libraries once, and forks a child for each stage, tool and command.

Most of a tiny run's time is importing PyTorch. `install` makes a folder with a `python`, a `dvc` and a
`torchrun` that hand their work to this process over a socket: the child gets their arguments, environment,
folder and the three standard files, runs the same module from the same clone, and ends with the status that
they end with. They pass signals on to it. Our own modules are not loaded before the fork. The process
removes the folder and ends when the one that runs the tests has ended.
"""

import array
import atexit
import gc
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

PRELOAD = (
    "captum.attr",
    "dulwich.porcelain",
    "dvc.cachemgr",
    "dvc.repo.experiments.executor.local",
    "dvc.repo.experiments.queue.celery",
    "huggingface_hub.repocard",
    "hydra.core.override_parser.overrides_parser",
    "networkx",
    "onnxscript.function_libs.torch_lib.ops",
    "pandas.io.formats.csvs",
    "pydantic.type_adapter",
    "ruamel.yaml",
    "scipy.stats",
    "torch._dynamo",
    "torchvision.transforms.v2",
)
REQUEST = 2**20  # bytes, at most
CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
given = {prefix!r} + sys.argv[1:]
words = given[1:] if given[:1] == ["-u"] else given  # torchrun gives -u; what is forked buffers nothing
ours = words[:1] == ["-m"] and words[1].startswith(("stages.", "tools.", "dvc", "torch.distributed.run"))
if not ours or "REAL_PYTHON" in os.environ:
    os.execv({python!r}, [{python!r}, *given])
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = json.dumps({{"words": words, "env": dict(os.environ), "cwd": os.getcwd()}}).encode()
socket.send_fds(server, [request], [0, 1, 2])
child = int(server.recv(16))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
status = int(server.recv(16))
if status < 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def install(folder: Path, python: str) -> None:
    """Write `python`, `dvc` and `torchrun` into `folder`; they need a server on `folder`/socket."""
    for name, *prefix in (("python",), ("dvc", "-m", "dvc"), ("torchrun", "-m", "torch.distributed.run")):
        script = folder / name
        script.write_text(CLIENT.format(python=python, prefix=prefix, address=str(folder / "socket")))
        script.chmod(0o755)


def serve(folder: Path, owner: int) -> None:
    """Import, then fork a child for each request until the process `owner` has ended."""
    for name in PRELOAD:
        __import__(name)
    gc.freeze()  # or a child's collector touches, and so copies, all the memory that it shares with us
    sys.executable = str(folder / "python")  # for children that start others
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children end on their own
    end = os.pidfd_open(owner)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(str(folder / "socket"))
    server.listen(64)
    while True:
        ready, _, _ = select.select([server.fileno(), end], [], [])
        if end in ready:
            shutil.rmtree(folder)
            return
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(_attend(connection))
        connection.close()


def _attend(connection: socket.socket) -> int:
    """Run one request in a child of its own; say which process that is, and its status in the end."""
    request, files, _, _ = socket.recv_fds(connection, REQUEST, 3)
    child = os.fork()
    if child == 0:
        connection.close()
        os._exit(_run(json.loads(request), files))
    for file in files:
        os.close(file)
    connection.send(str(child).encode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.send(str(status).encode())
    return 0


def _run(request: dict[str, Any], files: "array.array[int] | list[int]") -> int:
    """Become `python -m MODULE ...` as far as one can after a fork; return the exit status."""
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(file, "w", closefd=False), write_through=True) for file in (1, 2)
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    module, *rest = request["words"][1:]
    sys.argv = [module, *rest]
    sys.path[0] = request["cwd"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return status


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
