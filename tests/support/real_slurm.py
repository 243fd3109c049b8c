"""A real Slurm of two nodes on the loopback interface, for tests and for trying things out.

    python tests/support/real_slurm.py            a shell in which `sbatch` and `snakemake` find it
    python tests/support/real_slurm.py COMMAND    run a command there

All that it writes is below one temporary folder, and it stops when the shell or the command ends.
It needs root, since its nodes start jobs as whoever submits them, and the packages `slurm-wlm` and
`munge`, from `apt-get install slurm-wlm munge`.

There are two nodes of two processors each, `n1` and `n2`, and two partitions: `main`, and `urgent`,
whose jobs preempt those of `main`. Both end a job after 60 minutes. There is no accounting, so
`sacct` knows nothing.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
COMMANDS = ("sacct", "sacctmgr", "sbatch", "scancel", "scontrol")
COMMANDS += ("sinfo", "squeue", "srun", "sshare")
NODES = ("n1", "n2")
# Megabytes of memory of a node.
MEMORY = 4000
CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n/slurmd.log
MpiDefault=none
SelectType=select/cons_tres
GresTypes=gpu
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=30
KillWait=5
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
# Without a limit of its own, a job would have a whole node's memory.
DefMemPerCPU=1000
EnforcePartLimits={limits}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=2
"""
_MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


class Slurm:
    """A running Slurm.

    Args:
        folder: For what it writes.
        enforces_limits: Whether it refuses a job that asks for more than a partition has. By
            Slurm's own default, it takes the job and never starts it.

    Attributes:
        folder: What it writes is below this folder.
        confines: Whether control groups confine the memory of jobs. Otherwise Slurm looks at a job
            every second, and ends one that holds more than it asked for.
        environment: The environment in which Slurm's commands find it.
    """

    def __init__(self, folder: Path, enforces_limits: bool = True) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing or os.geteuid() != 0:
            raise RuntimeError(
                f"Slurm cannot be started: it needs root and {', '.join(PROGRAMS)} "
                f"(missing: {', '.join(missing) or 'root'})"
            )
        self.folder, self._enforces_limits = folder, enforces_limits
        self.confines = os.access(_MEMORY_GROUPS / "cgroup.procs", os.W_OK)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Slurm":
        try:
            self._configure()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands; return what it writes."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def stop(self) -> None:
        """Cancel all jobs, and end all daemons."""
        if self._daemons:
            subprocess.run(["scancel", "--user=root"], env=self.environment, check=False)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _configure(self) -> None:
        folder, control, *ports = self.folder, *_free_ports(1 + len(NODES))
        for name in ("state", "bin", "munge", *NODES):
            (folder / name).mkdir(parents=True, exist_ok=True)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        limits = "ALL" if self._enforces_limits else "NO"
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 "
            f"RealMemory={MEMORY}"
            for node, port in zip(NODES, ports, strict=True)
        ]
        if self.confines:
            lines += ["ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup"]
            groups = ["CgroupPlugin=cgroup/v1", "ConstrainRAMSpace=yes"]
        else:
            lines += ["ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none"]
            lines += ["JobAcctGatherParams=OverMemoryKill"]
            groups = ["CgroupPlugin=disabled"]
        lines.append(CONFIG.format(host=host, folder=folder, port=control, limits=limits))
        (folder / "slurm.conf").write_text("\n".join(lines))
        (folder / "cgroup.conf").write_text("\n".join(groups) + "\n")
        # Within a job, the executor plugin drops all variables named SLURM_*, also that of the
        # configuration, which elsewhere is /etc/slurm/slurm.conf.
        for name in COMMANDS:
            command = folder / "bin" / name
            command.write_text(
                f'#!/bin/sh\nSLURM_CONF="{folder}/slurm.conf" exec {shutil.which(name)} "$@"\n'
            )
            command.chmod(0o755)

    def _start(self) -> None:
        # An environment like a login shell's, which jobs do not inherit.
        munge = self.folder / "munge"
        self._daemons.append(
            self._daemon(
                "munged",
                "--foreground",
                "--force",
                f"--key-file={munge}/key",
                f"--socket={munge}/socket",
                f"--pid-file={munge}/pid",
                f"--log-file={munge}/log",
                f"--seed-file={munge}/seed",
            )
        )
        _wait_for("munge", lambda: (munge / "socket").exists())
        self._daemons.append(self._daemon("slurmctld", "-D"))
        for node in NODES:
            self._daemons.append(self._daemon("slurmd", "-D", "-N", node))
        _wait_for(f"the nodes (logs below {self.folder})", self._is_idle)

    def _daemon(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "daemons.log").open("ab") as out:
            return subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)

    def _is_idle(self) -> bool:
        found = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return found.stdout.split() == ["idle"] * len(NODES)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Slurm cannot be started: waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


def main(command: list[str]) -> int:
    """Run a command, or a shell, beside a Slurm; return its exit status."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Slurm(Path(folder)) as slurm:
        command = command or [os.environ.get("SHELL", "/bin/bash")]
        return subprocess.run(command, env=slurm.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
