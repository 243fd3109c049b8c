"""Check the Every Eval Ever files of a study with the validator of the package every-eval-ever.

    .venv-validators/bin/python tests/exports/check_evaluations.py results/laptop

`make check-exports` makes that environment. The validator applies the classes that the package
generates from its JSON schema, then the checks of its data store: paths, scores, model names. A
warning counts as an error, since the data store refuses it, too.
"""

import sys
from pathlib import Path

from every_eval_ever.validator.validate import main

FOLDER = "audit/every_eval_ever"


def files(root: Path) -> list[str]:
    """Return the files of a study; the validator needs their full paths.

    Raises:
        SystemExit: There are none.
    """
    found = sorted(path for path in (root / FOLDER).resolve().rglob("*") if path.is_file())
    if not found:
        sys.exit(f"{root / FOLDER}: there are no files; run the study first")
    return list(map(str, found))


if __name__ == "__main__":
    checked = files(Path(sys.argv[1]))
    status = main(["--format", "github", *checked])
    if status == 0:
        print(f"{len(checked)} Every Eval Ever files are valid")
    sys.exit(status)
