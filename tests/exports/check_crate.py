"""Check the RO-Crate of a study with roc-validator, without the network.

    .venv-validators/bin/python tests/exports/check_crate.py results/laptop

`make check-exports` makes that environment, since roc-validator and import-linter want different
versions of rich. The validator reads the two contexts of a crate from the web. Its cache is given
them instead: RO-Crate's own from the package rocrate, and the one term for workflow runs that our
crates use.
"""

import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from requests_cache import CachedRequest, CachedResponse, CachedSession

WORKFLOW_RUN = "https://w3id.org/ro/terms/workflow-run"
CONTEXTS = {
    "https://w3id.org/ro/crate/1.1/context": (
        files("rocrate") / "data" / "ro-crate.jsonld"
    ).read_text(encoding="utf-8"),
    f"{WORKFLOW_RUN}/context": json.dumps({"@context": {"sha256": f"{WORKFLOW_RUN}#sha256"}}),
}
HEADERS = {"Content-Type": "application/ld+json"}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "contexts")
        with CachedSession(cache, backend="sqlite", expire_after=-1) as session:
            for url, text in CONTEXTS.items():
                asked = CachedRequest(method="GET", url=url)
                answer = CachedResponse(
                    content=text.encode(), status_code=200, headers=HEADERS, request=asked, url=url
                )
                session.cache.save_response(answer)
        command = [str(Path(sys.executable).with_name("rocrate-validator")), "--no-interactive"]
        command += ["validate", sys.argv[1], "--profile-identifier", "workflow-ro-crate"]
        command += ["--offline", "--verbose", "--no-paging", "--skip-availability-check"]
        sys.exit(subprocess.run([*command, "--cache-path", cache], check=False).returncode)
