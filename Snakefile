# A Free Lunch in LLM Compression (arXiv 2510.14444): from models and texts to figures.
#
#   snakemake --cores all                        the default study, config.yaml
#   snakemake --cores all --replace-workflow-config --configfile studies/full.yaml
#   snakemake --cores all -n                     what would run, and why
#
# Each cell of the study becomes a pruned, adapted, evaluated checkpoint and one small record; tables
# and figures are functions of the records. The rules are in workflow/rules/, a file for each phase.

import json
import os
import sys
from glob import glob
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "scripts"))

from freelunch.cli import terminal
from freelunch.core import lock
from freelunch.core.code_digest import code_digest
from freelunch.core.errors import UserError
from freelunch.costs.plan import Plan
from freelunch.reporting import figures, tables
from freelunch.study import methods, paths, search, steps, windows
from freelunch.study.cell import ADAPTATION, DENSE, NAME, NONE, WORD, Cell
from freelunch.study.measurements import measurements
from freelunch.study.study import Study


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


try:
    # Those that --configfile names, before the one above.
    named = workflow.configfiles[:-1] or workflow.configfiles
    # As a command line has it: the same file by another name would be another setting.
    STUDY = Study.check(config, ", ".join(os.path.relpath(path) for path in named))
    PLAN = Plan.of(STUDY)
except UserError as error:
    raise WorkflowError(str(error))

if workflow.is_main_process:
    lock.clear_stale_locks(Path(".snakemake"))

CELLS = STUDY.cells
PATHS = STUDY.paths


wildcard_constraints:
    model=NAME,
    text=NAME,
    task=WORD,
    pruning=rf"{DENSE}|{WORD}-{WORD}",
    adaptation=ADAPTATION,
    seed=r"\d+",


# How many jobs share the windows of one reconstruction: one on a laptop; on a cluster as many as you
# like, with `--set-scatter windows=16` or `set-scatter` in the profile. The result is the same.
scattergather:
    windows=1,


localrules:
    all,
    collect_records,
    build_tables,
    audit_study,


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/reconstruct.smk"
include: "workflow/rules/retrain.smk"
include: "workflow/rules/choose.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/show.smk"


rule all:
    default_target: True
    input:
        [str(PATHS.record(cell)) for cell in CELLS],
        rules.build_tables.output,
        FIGURES,
        rules.audit_study.output,


onstart:
    terminal.say(PLAN.text())


onsuccess:
    # `make study` shows it after every run, also where there was nothing to do.
    if "MAKELEVEL" not in os.environ:
        try:
            terminal.say(terminal.summary(STUDY))
        except UserError as error:
            # A run of a part of the study leaves records missing, and is a success all the same.
            terminal.say(f"No summary yet: {error}")


onerror:
    terminal.say(terminal.FAILED)
