"""A Python in which programs start at once, since it imported torch and Snakemake before.

A job of a tiny model spends nearly all its processor time on imports. `warm_folder()` is a folder
for PATH, with `python` and `snakemake`, which run in a fork of one process that has imported the
large packages (not the library): the same program, arguments, environment, folder and files.

Three things differ from a process of its own. A signal to `python` or `snakemake` kills the
program, which does not see which signal it was. Libraries have read variables of the environment,
such as OMP_NUM_THREADS, before, and what they asked Python to do at its end is not done. Tests
interrupt real programs only.
"""

import atexit
import functools
import gc
import importlib
import importlib.metadata
import marshal
import os
import random
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy

# What takes long to import, also what torch and transformers import only when a model is made.
PACKAGES = (
    *("snakemake.cli", "snakemake.script", "jsonschema", "pandas", "pydantic.main", "scipy.stats"),
    *("torch", "torch._dynamo", "transformers", "transformers.loss.loss_utils"),
    *(f"transformers.models.{it}.modeling_{it}" for it in ("gemma2", "llama", "opt", "qwen2")),
    *("matplotlib.figure", *(f"matplotlib.backends.backend_{it}" for it in ("agg", "pdf", "svg"))),
)
# What a process without them has, whatever the tests were started with.
UNSET = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


@functools.cache
def warm_folder(*within: str) -> Path:
    """Return a folder with `python` and `snakemake`, which stays as long as this process.

    Args:
        within: A command in which they run, such as `unshare --net`.
    """
    # Not below pytest's folder: the path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    real = Path(sys.executable)
    client = [real, "-IS", Path(__file__).with_name("warm_client.py"), folder / "socket"]
    for name, program in (("python", []), ("snakemake", [real.with_name("snakemake")])):
        command = shlex.join(map(str, [*client, *program]))
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        server = subprocess.Popen(
            [*within, real, __file__, folder, str(listener.fileno())],
            # It ends when this ends, at the latest with this process.
            stdin=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name not in UNSET},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    atexit.register(server.communicate)
    return folder


def prepare() -> None:
    """Do once what each program would do again, though it is the same for all."""
    for name in PACKAGES:
        importlib.import_module(name)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    # Loading any model builds transformers' table of renamed weights for all architectures.
    get_checkpoint_conversion_mapping("llama")
    # Each job notes the versions of packages, which stand in long files.
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    for distribution in importlib.metadata.distributions():
        importlib.metadata.version(distribution.name)
    # At its end a program would take back each operator that torch has registered.
    for finalizer in weakref.finalize._registry:
        finalizer.atexit = False


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each program that is asked for.

    Returns:
        In a fork, what `run` takes; in this process, None, when standard input has ended.
    """
    # By the file descriptor that becomes readable when the program has ended.
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        connections = [connection for _, connection in running.values()]
        ready = select.select([sys.stdin, listener, *running, *connections], [], [])[0]
        if sys.stdin in ready:
            for pid, _ in running.values():
                os.kill(pid, signal.SIGKILL)
            return None
        for ended, (pid, connection) in [*running.items()]:
            if connection in ready:
                # Whoever waited for the program was killed.
                os.kill(pid, signal.SIGKILL)
            if ended in ready:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with connection, suppress(BrokenPipeError):
                    connection.sendall(str(status).encode())
                os.close(ended)
                del running[ended]
        if listener in ready:
            connection, _ = listener.accept()
            files = socket.recv_fds(connection, 1, 3)[1]
            asked: dict[str, Any] = marshal.load(connection.makefile("rb"))
            pid = os.fork()
            if pid == 0:
                listener.close()
                for number, file in enumerate(files):
                    os.dup2(file, number)
            for file in files:
                os.close(file)
            if pid == 0:
                return asked
            running[os.pidfd_open(pid)] = (pid, connection)


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run a program in this process as `python` would."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # A process of its own would have other random numbers than the others, too.
    random.seed()
    numpy.random.seed()
    path = environment.get("PYTHONPATH", "").split(os.pathsep)
    match arguments:
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            sys.path[:1] = [folder, *filter(None, path)]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [script, *_] if not script.startswith("-"):
            sys.argv = arguments
            sys.path[:1] = [str(Path(script).resolve().parent), *filter(None, path)]
            runpy.run_path(script, run_name="__main__")
        case _:
            os.execv(REAL, [REAL, *arguments])


def status_of(program: Callable[[], None]) -> int:
    """Run a program, end it as the interpreter does, and return its exit status.

    Only memory is not freed: that would copy what all programs share, 0.3 s of processor time.
    """
    status = 0
    try:
        program()
    except SystemExit as left:
        if isinstance(left.code, int):
            status = left.code
        elif left.code is not None:
            print(left.code, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    REAL = sys.executable
    folder = Path(sys.argv[1])
    with socket.socket(fileno=int(sys.argv[2])) as listener:
        listener.set_inheritable(False)
        prepare()
        # What a program starts starts at once, too.
        sys.executable = str(folder / "python")
        gc.freeze()
        asked = serve(listener)
    if asked is None:
        shutil.rmtree(folder)
        os._exit(0)
    os._exit(status_of(lambda: run(**asked)))
