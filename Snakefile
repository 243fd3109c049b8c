# The workflow is in workflow/Snakefile; this file lets `snakemake --cores all` find it from a clone.
# An `include:` would forget which rule is the default target.
workflow.include("workflow/Snakefile", overwrite_default_target=True)
