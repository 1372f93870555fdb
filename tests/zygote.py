"""A process that has imported the heavy libraries once, and forks a child for each stage, tool and command.

Most of a tiny run's time is importing PyTorch. `python tests/zygote.py FOLDER OWNER` fills FOLDER with a
`python`, a `dvc` and a `torchrun` that hand their work to this process over a socket: a child gets their
arguments, environment, working folder and the three standard files, runs the same module, and ends with the
status that they end with. They pass signals on to it. Our own modules are not loaded before the fork. The
process removes the folder and ends when the process OWNER, which runs the tests, has ended.
"""

import atexit
import gc
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

PRELOAD = (
    *("dulwich.porcelain", "dvc.cachemgr", "dvc.repo.experiments.executor.local"),
    *("dvc.repo.experiments.queue.celery", "hydra.core.override_parser.overrides_parser", "networkx"),
    *("onnxscript.function_libs.torch_lib.ops", "pandas.io.formats.csvs", "pydantic.type_adapter"),
    *("ruamel.yaml", "scipy.stats", "torch._dynamo", "torchvision.transforms.v2"),
)
REQUEST = 2**20  # bytes, at most
CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
given = {prefix!r} + sys.argv[1:]
words = given[1:] if given[:1] == ["-u"] else given  # torchrun gives -u; what is forked buffers no line
ours = words[:1] == ["-m"] and words[1].startswith(("stages.", "tools.", "dvc", "torch.distributed.run"))
if not ours or "REAL_PYTHON" in os.environ:
    os.execv({python!r}, [{python!r}, *given])
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = json.dumps([words[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [request], [0, 1, 2])
child = int(server.recv(16))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
sys.exit(int(server.recv(16) or 1))
"""


def serve(folder: Path, owner: int) -> None:
    """Import, then fork a child for each request until the process `owner` has ended."""
    for name in PRELOAD:
        __import__(name)
    gc.freeze()  # or a child's collector touches, and so copies, all the memory that it shares with us
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    address, python = str(folder / "socket"), sys.executable
    server.bind(address)
    server.listen(64)
    for name, *prefix in (("python",), ("dvc", "-m", "dvc"), ("torchrun", "-m", "torch.distributed.run")):
        (folder / name).write_text(CLIENT.format(python=python, prefix=prefix, address=address))
        (folder / name).chmod(0o755)
    if os.fork():
        os._exit(0)  # whoever has started us knows now that we are ready
    sys.executable = str(folder / "python")  # for children that start others
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children end on their own
    end = os.pidfd_open(owner)
    while end not in select.select([server.fileno(), end], [], [])[0]:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            attend(connection)
        connection.close()
    shutil.rmtree(folder)


def attend(connection: socket.socket) -> None:
    """Become `python -m MODULE ...` as far as one can after a fork."""
    request, files, _, _ = socket.recv_fds(connection, REQUEST, 3)
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    sys.argv, environment, cwd = json.loads(request)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    connection.send(str(os.getpid()).encode())
    status = 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.__stdout__.flush()  # type: ignore[union-attr]  # some stages let sys.stdout be None
    connection.send(str(status).encode())
    os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
