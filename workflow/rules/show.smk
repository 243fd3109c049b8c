# Tables and figures, from the records alone. Drawing reads a CSV and computes nothing.


rule build_tables:
    input:
        [str(PATHS.record(cell)) for cell in CELLS],
    output:
        summary_csv=report(
            PATHS.tables / "summary.csv",
            caption="../report/summary.rst",
            category="Tables",
            labels={"table": "summary", "content": "one row a cell"},
        ),
        summary_md=PATHS.tables / "summary.md",
        summary_tex=PATHS.tables / "summary.tex",
        numbers_json=PATHS.tables / "numbers.json",
        metrics_json=PATHS.tables / "metrics.json",
        criteria_csv=report(
            PATHS.figures / "criteria.csv",
            caption="../report/criteria_data.rst",
            category="Tables",
            labels={"table": "criteria", "content": "what the figure draws"},
        ),
        gaps_csv=report(
            PATHS.tables / "gaps.csv",
            caption="../report/gaps.rst",
            category="Tables",
            labels={"table": "gaps", "content": "best against worst criterion"},
        ),
        sizes_csv=report(
            PATHS.figures / "sizes.csv",
            caption="../report/sizes_data.rst",
            category="Tables",
            labels={"table": "sizes", "content": "gap against the size of the model"},
        ),
        pairs_csv=report(
            PATHS.tables / "criteria_pairs.csv",
            caption="../report/criteria_pairs.rst",
            category="Tables",
            labels={"table": "pairs", "content": "every two criteria"},
        ),
        windows_csv=report(
            PATHS.figures / "windows.csv",
            caption="../report/windows_data.rst",
            category="Tables",
            labels={"table": "windows", "content": "what the window is worth"},
        ),
        drift_csv=report(
            PATHS.figures / "drift.csv",
            caption="../report/drift_data.rst",
            category="Tables",
            labels={"table": "drift", "content": "activations against depth"},
        ),
        budgets_csv=report(
            PATHS.figures / "budgets.csv",
            caption="../report/budgets_data.rst",
            category="Tables",
            labels={"table": "budgets", "content": "retraining beside reconstruction"},
        ),
        reach_csv=report(
            PATHS.tables / "reach.csv",
            caption="../report/reach.rst",
            category="Tables",
            labels={"table": "reach", "content": "which budget reaches reconstruction"},
        ),
        tasks_csv=report(
            PATHS.tables / "tasks.csv",
            caption="../report/tasks.rst",
            category="Tables",
            labels={"table": "tasks", "content": "zero-shot accuracy"},
        ),
    log:
        PATHS.log("build_tables"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        # The tables show the whole study, and so depend on all of its config.
        config=STUDY.config,
        source=STUDY.source,
        code=code_digest("build_tables"),
    script:
        "../scripts/build_tables.py"


rule draw_criteria:
    input:
        data=PATHS.figures / "criteria.csv",
    output:
        drawn("criteria", "perplexity by criterion"),
    log:
        PATHS.log("draw_criteria"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        # Every adaptation of the config, shown or not: each keeps its look in all figures.
        adaptations=STUDY.config["adaptations"],
        selected_on_evaluation=STUDY.selected_on_evaluation,
        text=STUDY.perplexity["text"]["name"],
        code=code_digest("draw_criteria"),
    script:
        "../scripts/draw_criteria.py"


rule draw_windows:
    input:
        data=PATHS.figures / "windows.csv",
    output:
        drawn("windows", "quality and memory by window"),
    log:
        PATHS.log("draw_windows"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        text=STUDY.perplexity["text"]["name"],
        code=code_digest("draw_windows"),
    script:
        "../scripts/draw_windows.py"


rule draw_budgets:
    input:
        data=PATHS.figures / "budgets.csv",
    output:
        drawn("budgets", "quality by tokens and operations"),
    log:
        PATHS.log("draw_budgets"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        # As for the criteria: of the config, shown or not.
        adaptations=STUDY.config["adaptations"],
        series=STUDY.series,
        text=STUDY.perplexity["text"]["name"],
        code=code_digest("draw_budgets"),
    script:
        "../scripts/draw_budgets.py"


rule draw_drift:
    input:
        data=PATHS.figures / "drift.csv",
    output:
        drawn("drift", "drift by depth"),
    log:
        PATHS.log("draw_drift"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        adaptations=STUDY.config["adaptations"],
        code=code_digest("draw_drift"),
    script:
        "../scripts/draw_drift.py"


rule draw_sizes:
    input:
        data=PATHS.figures / "sizes.csv",
    output:
        drawn("sizes", "gap by size of the model"),
    log:
        PATHS.log("draw_sizes"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        adaptations=STUDY.config["adaptations"],
        code=code_digest("draw_sizes"),
    script:
        "../scripts/draw_sizes.py"


# The figures that this study has.
FIGURES = [
    *rules.draw_criteria.output,
    *(rules.draw_windows.output if STUDY.compares_windows else []),
    *(rules.draw_budgets.output if STUDY.compares_budgets else []),
    *(rules.draw_drift.output if "drift" in STUDY.block["evaluation"] else []),
    *(rules.draw_sizes.output if STUDY.compares_sizes else []),
]


rule audit_study:
    input:
        records=[str(PATHS.record(cell)) for cell in CELLS],
        tables=rules.build_tables.output,
        figures=FIGURES,
        # What it compares with.
        claims="workflow/data/claims.yaml",
        protocol="workflow/data/protocol.yaml",
        published="workflow/data/published_results.csv",
        # The crate describes them.
        snakefile="Snakefile",
        citation="CITATION.cff",
        page=glob("workflow/report/audit/*"),
        captions=expand(
            "workflow/report/{figure}.rst",
            figure=["budgets", "windows", "drift", "criteria", "sizes"],
        ),
    output:
        audit=PATHS.audit / "audit.json",
        verdicts=PATHS.audit / "verdicts.md",
        page=report(
            PATHS.audit / "index.html",
            caption="../report/audit.rst",
            category="Audit",
            labels={"page": "what holds of the paper's claims"},
        ),
        crate=PATHS.root / "ro-crate-metadata.json",
        # What was run, within the crate.
        snakefile=PATHS.audit / "run" / "Snakefile",
        config=PATHS.audit / "run" / "config.yaml",
    log:
        PATHS.log("audit_study"),
    conda:
        "../../envs/freelunch.yaml"
    params:
        config=STUDY.config,
        source=STUDY.source,
        code=code_digest("audit_study"),
    script:
        "../scripts/audit_study.py"
