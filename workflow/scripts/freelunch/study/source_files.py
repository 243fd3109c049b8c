"""Files of a source: the user's own, which are inputs of the workflow; the GGUF file of a local
model; and the hidden folders beside one that is being fetched.

Apart from the other paths, since fetching a model depends on no study.
"""

from pathlib import Path

from freelunch.core.errors import UserError, first_of

GGUF = ".gguf"


def files_at(path: str | list[str]) -> list[str]:
    """Return a file of the user's, or the files in a folder of the user's, but for hidden ones; or
    those at several paths.
    """
    if isinstance(path, list):
        return [file for each in path for file in files_at(each)]
    place = Path(path)
    if not place.is_dir():
        return [str(place)]
    files = (file for file in place.iterdir() if file.is_file() and file.name[0] != ".")
    return sorted(map(str, files))


def has_braces(path: str) -> bool:
    """Return whether Snakemake would read wildcards in a path."""
    return "{" in path or "}" in path


def scratch_of(folder: Path) -> Path:
    """Return where a step works while it fetches a model, a text or a task into a folder."""
    return folder.with_name(f".{folder.name}")


def downloads_of(scratch: Path) -> Path:
    """Return where files from the hub stay until the fetch has ended well; each attempt empties the
    scratch folder itself.
    """
    return scratch.with_name(f"{scratch.name}.downloads")


def gguf_of(path: Path, where: str) -> Path | None:
    """Return the GGUF file of a local model, a file or a folder; None if the model is not one, or
    is not there. UserError, with the path's key in the study: the folder holds several models.
    """
    if path.is_file() and path.suffix == GGUF:
        return path
    if not path.is_dir():
        return None
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    models = [name for name in names if name.endswith(GGUF)]
    if not models:
        return None
    others = [name for name in names if name.endswith(".safetensors")]
    others += sorted(file.parent.name for file in path.glob("*/config.json"))
    if len(models) > 1 or others:
        raise UserError(
            "the folder holds a GGUF file and other models",
            where=where,
            found=", ".join(first_of([*models[:2], *others])),
            expected="one model",
            todo=f"name one of them as `path`, such as {path / models[0]}; join the parts of a "
            "split model with llama.cpp's `llama-gguf-split --merge`",
        )
    return path / models[0]
