"""Run Snakemake, whose jobs fork from a process that has imported what they need.

    python tests/support/warm_snakemake.py --cores 2 ...

takes the arguments of `snakemake`. Rules, scripts, inputs and outputs are those of any run. A job
of a tiny model spends nearly all its time on importing torch and transformers, which this saves.
"""

import ast
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

# What transformers and torch import only when a model is made or trained.
LATE = (
    "torch._dynamo",
    "transformers.loss.loss_utils",
    *(f"transformers.models.{it}.modeling_{it}" for it in ("gemma2", "llama", "opt", "qwen2")),
)


def imported() -> list[str]:
    """Return the names of the modules that the scripts of the workflow import."""
    nodes = [
        node
        for path in Path("workflow/scripts").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    return [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


def serve(listener: socket.socket, parent: int) -> NoReturn:
    """Fork a process for each script that a connection names, until the parent process ends."""
    sys.path.insert(0, str(Path("workflow/scripts").resolve()))
    for name in (*imported(), *LATE):
        if name != "snakemake.script":
            importlib.import_module(name)
    listener.settimeout(1)
    while os.getppid() == parent:
        reap()
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            with connection:
                asked = json.loads(connection.makefile().readline())
                connection.sendall(str(run(asked["script"], asked["environment"])).encode())
            os._exit(0)
        connection.close()
    os._exit(0)


def reap() -> None:
    """Let processes go that have ended; whoever asked for them knows how."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def run(script: str, environment: dict[str, str]) -> int:
    """Run a script as `python script` would; return its exit status."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    path = Path(tempfile.mkdtemp()) / "jobs"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    parent = os.getpid()
    if os.fork() == 0:
        serve(listener, parent)
    listener.close()
    # Snakemake is imported after the fork: its threads would not survive it.
    from snakemake.cli import main as snakemake
    from snakemake.script import PythonScript

    def execute(self: PythonScript, command: str, **given: Any) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            asked = {"script": given["fname"], "environment": dict(os.environ)}
            connection.sendall(json.dumps(asked).encode() + b"\n")
            # Nothing comes from a job that was killed.
            status = int(connection.makefile().read() or 1)
        if status:
            raise subprocess.CalledProcessError(status, given["fname"])

    PythonScript._execute_cmd = execute
    snakemake(sys.argv[1:])


if __name__ == "__main__":
    main()
