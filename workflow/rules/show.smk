# Make tables and figures from the records alone. Each is declared in freelunch.reporting: a table in
# `tables`, a figure in its module of `figures`; figures of claims are in freelunch.audit. Drawing reads
# a CSV file and computes nothing.


rule build_tables:
    input:
        records=RECORDS,
        # The effects show the thresholds of the claims.
        claims=of_this_repository("workflow/data/claims.yaml"),
    output:
        [table_file(table) for table in tables.all_tables(effects.TABLES_OF_CLAIMS)],
        [PATHS.root / file for file in tables.DOCUMENTS],
        PATHS.root / output_files.TABLE_SUMS,
    log:
        PATHS.log("build_tables"),
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        # The tables show the whole study, so they depend on all of its config.
        config=STUDY.as_json(licences=False),
        source=STUDY.source,
        captions={
            table.file: table.caption(STUDY)
            for table in tables.all_tables(effects.TABLES_OF_CLAIMS)
        },
        code=code_digest("build_tables", *figure_modules()),
    script:
        "../scripts/build_tables.py"


rule draw_figure:
    input:
        data=PATHS.figures / "{figure}.csv",
        # It only says whether the data are those that were made: another table draws nothing again.
        sums=ancient(PATHS.root / output_files.TABLE_SUMS),
    output:
        figure=[figure_file(suffix) for suffix in FORMATS],
        sums=PATHS.root / output_files.figure_sums("{figure}"),
    log:
        PATHS.log("draw_figure", "{figure}"),
    wildcard_constraints:
        figure="|".join(effects.figures()),
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        settings=lambda wildcards: figure_of(wildcards).settings(STUDY),
        caption=lambda wildcards: figure_of(wildcards).caption(STUDY),
        drawing=lambda wildcards: figure_of(wildcards).drawing,
        code=lambda wildcards: code_digest("draw_figure", figure_of(wildcards).drawing),
    script:
        "../scripts/draw_figure.py"


# The figures of this study.
FIGURES = [
    PATHS.figures / f"{figure.name}.{suffix}"
    for figure in effects.figures_of(STUDY)
    for suffix in FORMATS
]
FIGURE_SUMS = [
    PATHS.root / output_files.figure_sums(figure.name) for figure in effects.figures_of(STUDY)
]


rule audit_study:
    input:
        records=RECORDS,
        tables=rules.build_tables.output,
        figures=FIGURES,
        sums=FIGURE_SUMS,
        # The audit compares the study with these.
        claims=of_this_repository("workflow/data/claims.yaml"),
        published=of_this_repository("workflow/data/published_results.csv"),
        page=[
            of_this_repository(f"workflow/report/audit/{path.name}")
            for path in sorted((REPOSITORY / "workflow/report/audit").iterdir())
        ],
    output:
        audit=PATHS.audit / "audit.json",
        verdicts=PATHS.audit / "verdicts.md",
        page=report(
            PATHS.audit / "index.html",
            caption="../report/audit.rst",
            category="Audit",
            labels={"page": "which of the paper's claims this study finds"},
        ),
        evidence=report(
            PATHS.audit / "evidence.html",
            caption="../report/audit.rst",
            category="Audit",
            labels={"page": "what the verdicts come from"},
        ),
        # The config that was run.
        config=PATHS.root / output_files.CONFIG,
        # A model card beside each checkpoint.
        cards=[PATHS.root / output_files.card_name(STUDY, cell) for cell in STUDY.cells],
        sums=PATHS.root / output_files.AUDIT_SUMS,
    log:
        PATHS.log("audit_study"),
    localrule: True
    conda:
        "../../envs/freelunch.yaml"
    params:
        config=STUDY.as_json(),
        source=STUDY.source,
        code=code_digest("audit_study", *figure_modules()),
    script:
        "../scripts/audit_study.py"
