# The workflow is in workflow/Snakefile; this file lets `snakemake --cores all` find it from a clone.


include: "workflow/Snakefile"
