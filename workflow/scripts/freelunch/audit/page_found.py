"""What a study found, as the audit's page shows it: a ranking for each pruned model, and plots."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.audit.found import leading
from freelunch.audit.page_cells import significant, sorting
from freelunch.audit.page_marks import sign, symbols
from freelunch.audit.page_scatter import scatter
from freelunch.reporting.drawing.marks import Mark, marks
from freelunch.reporting.formatting import NOTHING
from freelunch.reporting.labels import pruned_model_label, pruning_label
from freelunch.study.cell import Cell
from freelunch.study.study import Study

HEADS = ("Adaptation", "Perplexity", "Gain (95 %)", "Recovered (95 %)", "Tokens", "TFLOP", "GB")
SEEDS = "Seeds"


def shown_found(study: Study, found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what the page shows of what was found; None if nothing was pruned.

    Args:
        study: For the looks of its adaptations.
        found: As `freelunch.audit.found.gather_found` returns it.
    """
    if not found:
        return None
    looks = marks(study.as_json()["adaptations"])
    several = len({it["model"] for it in found}) > 1
    seeds = {each["seeds"] for it in found for each in it["adaptations"]}
    # The one that the answer is about comes first.
    groups = [_group(it, looks, several) for it in sorted(found, key=leading)]
    used = [looks[each["adaptation"]] for it in found for each in it["adaptations"]]
    return {
        "heads": [*HEADS, *([SEEDS] if len(seeds) > 1 else [])],
        "groups": groups,
        "plots": _plots(groups),
        "symbols": list(symbols(used).values()),
        "legend": list({look["label"]: look for look in map(sign, used)}.values()),
        "seeds": f"{max(seeds)} seeds" if seeds and max(seeds) > 1 else "one seed",
        "several_seeds": len(seeds) > 1,
        "on_evaluation": any(row["chosen"] for group in groups for row in group["rows"]),
    }


def _plots(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the groups that are plotted: those with several points, or else all."""
    plotted = [group for group in groups if group["plot"]]
    several = [group for group in plotted if len(group["plot"]["points"]) > 1]
    return several or plotted


def _group(found: Mapping[str, Any], looks: Mapping[str, Mark], several: bool) -> dict[str, Any]:
    label = pruned_model_label(found) if several else pruning_label(found)
    levels = {"pruned": found["unadapted"], "dense": found["dense"]}
    plot = scatter(found)
    if plot:
        for point in plot["points"]:
            its = point.pop("adaptation")
            point |= sign(looks[its["adaptation"]]) | {
                "title": f"{its['adaptation']}: {its['perplexity']['text']}, {_amounts(its)}",
                "records": _records(its),
                "seeds": its["seeds"],
            }
    return {
        "label": label,
        "levels": ", ".join(f"{name} {it['text']}" for name, it in levels.items() if it),
        "rows": [_row(each, looks[each["adaptation"]]) for each in found["adaptations"]],
        "plot": plot,
    }


def _row(each: Mapping[str, Any], look: Mark) -> dict[str, Any]:
    return {
        "adaptation": each["adaptation"],
        "label": look.label,
        "mark": sign(look)["id"],
        "chosen": each["selected_on"] == "evaluation",
        "records": _records(each),
        "fields": list(_fields(each)),
        "seeds": each["seeds"],
    }


def _fields(each: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the numbers of a row, each with what it is sorted by."""
    yield {"text": each["perplexity"]["text"], "value": sorting(each["perplexity"]["value"])}
    for key in ("gain", "recovered"):
        known = each[key] if each[key] and each[key]["value"] is not None else None
        yield {
            # The heading says what the interval is.
            "text": known["text"].replace("(95 %: ", "(") if known else NOTHING,
            "value": sorting(known["value"]) if known else "",
        }
    tokens, flops, peak_bytes = (each[key] for key in ("tokens", "flops", "peak_bytes"))
    yield {"text": f"{tokens:,.0f}" if tokens else NOTHING, "value": sorting(tokens)}
    for value, unit in ((flops, 1e12), (peak_bytes, 1e9)):
        yield {"text": significant(value / unit if value else None), "value": sorting(value)}


def _amounts(each: Mapping[str, Any]) -> str:
    tokens, flops, peak_bytes = (field["text"] for field in [*_fields(each)][3:])
    return f"{tokens} tokens, {flops} TFLOP, {peak_bytes} GB"


def _records(each: Mapping[str, Any]) -> str:
    """Return the records of an adaptation, which the filter of cells hides with them."""
    return " ".join(Cell.parse(cell).record_name for cell in each["cells"])
