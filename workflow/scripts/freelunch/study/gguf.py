"""The GGUF file that a local model consists of, if it is one."""

from pathlib import Path

from freelunch.core.errors import UserError, first_of

SUFFIX = ".gguf"


def gguf_of(path: Path, where: str) -> Path | None:
    """Return the GGUF file of a local model; None if the model is not one, or is not there.

    Args:
        path: A GGUF file, or a folder.
        where: The path's key in the study, for messages.

    Raises:
        UserError: It is not clear which file is the model.
    """
    if path.is_file() and path.suffix == SUFFIX:
        return path
    if not path.is_dir():
        return None
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    found = [name for name in names if name.endswith(SUFFIX)]
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if found and safetensors:
        raise UserError(
            "the folder holds the weights twice, as GGUF and as safetensors",
            where=where,
            found=", ".join([*found[:2], *safetensors[:2]]),
            expected="one of them",
            todo="name the GGUF file itself as `path`, or move it elsewhere",
        )
    if len(found) > 1:
        raise UserError(
            "the folder holds several GGUF files",
            where=where,
            found=", ".join(first_of(found)),
            expected="one",
            todo="name one of them as `path`; join the parts of a split model with llama.cpp's "
            "`llama-gguf-split --merge`",
        )
    beside = sorted(folder.name for folder in path.iterdir() if (folder / "config.json").is_file())
    if found and beside:
        raise UserError(
            "the folder holds a GGUF file, and other models in folders",
            where=where,
            found=", ".join(first_of([found[0], *beside])),
            expected="one model",
            todo=f"name one of them, such as {path / found[0]}",
        )
    return path / found[0] if found else None
