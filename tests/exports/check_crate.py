"""Check the RO-Crate of a study with roc-validator, without the network.

    .venv-validators/bin/python tests/exports/check_crate.py results/laptop

`make check-exports` makes that environment, since roc-validator and import-linter want different
versions of rich. The validator reads the two contexts of a crate from the web. Its cache is given
them instead: RO-Crate's own from the package rocrate, and of the terms for workflow runs those that
our crates use.
"""

import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from requests_cache import CachedRequest, CachedResponse, CachedSession

ROCRATE = "https://w3id.org/ro/crate/1.1/context"
WORKFLOW_RUN = "https://w3id.org/ro/terms/workflow-run"
TERMS = ("sha256",)
PROFILE = "workflow-ro-crate"


def contexts():
    """Return the JSON-LD contexts of our crates by their addresses.

    Raises:
        ValueError: The package rocrate has the context of another version.
    """
    of_rocrate = (files("rocrate") / "data" / "ro-crate.jsonld").read_text(encoding="utf-8")
    if json.loads(of_rocrate)["@id"] != ROCRATE:
        raise ValueError(f"the package rocrate does not hold {ROCRATE}")
    terms = {"@context": {term: f"{WORKFLOW_RUN}#{term}" for term in TERMS}}
    return {ROCRATE: of_rocrate, f"{WORKFLOW_RUN}/context": json.dumps(terms)}


def fill_cache(path):
    """Write the contexts to the validator's cache of the web."""
    with CachedSession(str(path), backend="sqlite", expire_after=-1) as session:
        for url, text in contexts().items():
            response = CachedResponse(
                content=text.encode(),
                status_code=200,
                headers={"Content-Type": "application/ld+json"},
                request=CachedRequest(method="GET", url=url),
                url=url,
            )
            session.cache.save_response(response)


def main(root):
    """Validate a crate by its profile and those that it builds on; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "contexts"
        fill_cache(cache)
        command = [Path(sys.executable).with_name("rocrate-validator"), "--no-interactive"]
        command += ["validate", root, "--profile-identifier", PROFILE, "--offline", "--verbose"]
        command += ["--no-paging", "--skip-availability-check", "--cache-path", cache]
        return subprocess.run(list(map(str, command)), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
