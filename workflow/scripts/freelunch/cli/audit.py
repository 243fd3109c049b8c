"""`freelunch audit`: the verdicts of a study's audit, and where its page is."""

import json

from freelunch.audit.output_checks import check_finished
from freelunch.audit.output_files import AUDIT_SUMS, audit_files
from freelunch.core.sums import check_sums
from freelunch.study.study import Study


def audit_text(study: Study) -> str:
    """Return a line for each claim, and below them the page with the evidence.

    A line says what was found, in brackets what that says of the claim, and at its end the scope.
    What published tables say of the claims stands apart.

    Raises:
        UserError: The study has no audit, it was edited since, or a file of the audit is damaged.
    """
    root, folder = study.paths.root, study.paths.audit
    check_finished(study)
    check_sums(root / AUDIT_SUMS, root, audit_files(study))
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    lines = [f"Scope: {audit['scope']}", ""]
    for each in audit["claims"]:
        scope = f" [{each['scope']}]" if each["scope"] else ""
        lines.append(
            f"{each['id']:<5} {each['verdict']} ({each['bearing']}): {each['title']}{scope}"
        )
    in_tables = [f"{each['id']:<5} {each['verdict']}" for each in audit["published_claims"]]
    if in_tables:
        lines += ["", "The same claims in published tables, which carry no intervals:", *in_tables]
    return "\n".join([*lines, "", f"The page with the evidence: {folder / 'index.html'}"])
