"""Draw a figure from its CSV file."""

from pathlib import Path

from freelunch.core.digest import check_sums, write_sums
from freelunch.reporting.drawing.style import draw_figure
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake):
        data = Path(snakemake.input.data)
        root = data.parents[1]
        name = data.relative_to(root).as_posix()
        check_sums(Path(snakemake.input.sums), root, [name], others=True)
        figure = [Path(path) for path in snakemake.output.figure]
        draw_figure(
            drawing=snakemake.params.drawing,
            data=data,
            settings=snakemake.params.settings,
            outputs=figure,
        )
        write_sums(Path(snakemake.output.sums), root, [data, *figure])
