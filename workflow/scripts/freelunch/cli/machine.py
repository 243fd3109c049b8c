"""The machine that a command is about: this one, or another one that is described."""

from pathlib import Path

from freelunch.core.devices import device_text, visible_devices
from freelunch.costs.machine import Learnt, Machine, read_gigabytes
from freelunch.records.rates import learnt_rate


def device_of(given: str | None, tflops: float | None) -> tuple[int | None, str]:
    """Return the memory of the smallest GPU in bytes, None without one, and what computes in words.

    Args:
        given: Memory of a GPU in GB, as `--device-memory` has it; None to look for GPUs here.
        tflops: Rate of another machine; None for this one.

    Raises:
        UserError: `given` is no positive number.
    """
    if given is not None:
        size = read_gigabytes(given, "--device-memory")
        return size, f"a GPU of {given} GB, as given"
    # With another machine's rate, the plan is for that machine.
    found = [] if tflops else visible_devices()
    text = "cpu, as no GPU is given" if tflops else device_text(found)
    return min((each.memory_bytes for each in found), default=None), text


def machine_of(
    tflops: float | None, disk: float | None, network: float | None, device: int | None = None
) -> Machine:
    """Return a machine with these rates; those that are not given are learnt or measured here.

    Args:
        tflops: TFLOP/s of a large matrix product; None for this machine's.
        disk: Bytes per second of the disk.
        network: Bytes per second of the network.
        device: Memory of the device that computes, in bytes; None if the processor computes.
    """
    learnt = None if tflops else _learnt(device)
    return Machine.of(tflops and tflops * 1e12, disk, network, device, learnt)


def assumed_machine(device: int | None) -> Machine:
    """Return this machine, with rates that do not depend on how busy it is now.

    Args:
        device: As `machine_of` takes it.
    """
    return Machine.of(device_bytes=device, learnt=_learnt(device), measures=False)


def _learnt(device: int | None) -> Learnt | None:
    # A device that is given, not seen, may be any of those that earlier jobs used.
    names = [each.name for each in visible_devices()] if device is not None else []
    return learnt_rate(Path("results"), device is not None, names)
