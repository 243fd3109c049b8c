"""Records as Every Eval Ever files, in which results of many evaluation programs can be compared.

The format (https://github.com/evaleval/every_eval_ever) has one JSON file for each evaluation of a
model, below `data/<collection>/<developer>/<model>/`, which is how its data store wants them.
`make check-exports` runs the validator of the package `every-eval-ever`. A file is a function of
its record: the losses of windows and the answers to tasks stay beside the record.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from freelunch.analysis.pairing import Records
from freelunch.core.digest import SHA256
from freelunch.core.files import json_text
from freelunch.reporting.derived import COLLECTION, evaluation_name, hub_name
from freelunch.study import steps
from freelunch.study.cell import Cell
from freelunch.study.study import Study

SCHEMA_VERSION = "0.3.0"
UNKNOWN = "unknown"
# What tells a file at its source from others.
_PLACE = ("package", "version", "sha256", "revision", "member", "format")
_OVER_WINDOWS = "analytic, of the windows' mean losses as if they were independent, to first order"
_OVER_DOCUMENTS = "analytic, over documents"
# Every detail in this format is a string.
Details = dict[str, str]


def evaluation_texts(study: Study, records: Records) -> dict[str, str]:
    """Return the file of each cell, by its name below the folder of the results.

    Args:
        study: The study.
        records: The record of each of its cells.
    """
    return {
        evaluation_name(study, cell): json_text(_evaluation(study, cell, records[cell]))
        for cell in study.cells
    }


def _evaluation(study: Study, cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file, which has no date but that of the record's last step."""
    finished = map(datetime.fromisoformat, record["provenance"]["finished"].values())
    ended = max(finished, default=None)
    time = UNKNOWN if ended is None else str(int(ended.timestamp()))
    model, results = hub_name(study, cell), list(_results(record))
    lacking = [each["evaluation_name"] for each in results if _score(each) is None]
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{COLLECTION}/{model}/{time}",
        "evaluation_timestamp": time,
        "retrieved_timestamp": time,
        "source_metadata": {
            "source_name": f"study {study.name}",
            "source_type": "evaluation_run",
            # Records name no person and no organisation.
            "source_organization_name": UNKNOWN,
            # Whoever runs a study makes its pruned models.
            "evaluator_relationship": "third_party" if cell.is_dense else "first_party",
            "additional_details": {
                "cell": str(cell),
                "record": f"records/{cell.record_name}",
                "record_sha256": record[SHA256],
                "settings_sha256": record["fingerprint"],
                **({"not_finite": ", ".join(lacking)} if lacking else {}),
            },
        },
        "eval_library": _library(record),
        "model_info": _model(cell, model, record),
        # The format has no score that is not finite.
        "evaluation_results": [each for each in results if _score(each) is not None],
    }


def _score(result: Mapping[str, Any]) -> float | None:
    score: float | None = result["score_details"]["score"]
    return score


def _library(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the program that evaluated, by its commit, and the packages that it used."""
    environment = record["provenance"]["environments"].get(steps.EVALUATE_CELL, {})
    commit = environment.get("commit")
    changed = "-dirty" if environment.get("uncommitted_changes") else ""
    packages = environment.get("packages", {}).items()
    details = {package: version for package, version in packages if version}
    if steps.TASKS in record["metrics"]:
        details["tasks"] = "prompts, choices and metrics of lm-eval, log-likelihoods of freelunch"
    return {
        "name": "freelunch",
        "version": f"{commit}{changed}" if commit else UNKNOWN,
        "additional_details": details,
    }


def _model(cell: Cell, model: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was evaluated: the dense model, or what was made of it and how."""
    spec, identity = record["spec"], record["identity"]
    # A pruned model is in the study's results; no record says whether it was published.
    is_open = cell.is_dense and "path" not in spec["model"]
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights" if is_open else UNKNOWN,
        "base_model": cell.model,
        **{f"base_model_{key}": value for key, value in _place(spec["model"]).items()},
        "parameters": str(identity["parameters"]),
        "sparsity": str(identity["sparsity"]),
        "checkpoint_sha256": identity["checkpoint_sha256"],
    }
    if not cell.is_dense:
        calibration = spec["calibration"]
        details |= {
            "pruning_criterion": cell.criterion,
            "pruning_pattern": cell.pattern,
            "pruning_settings": json.dumps(spec["criterion"], sort_keys=True),
            "adaptation": cell.adaptation,
            "adaptation_settings": json.dumps(spec["adaptation"], sort_keys=True),
            "calibration_text": calibration["text"]["name"],
            "calibration_samples": str(calibration["samples"]),
            "calibration_length": str(calibration["length"]),
            "seed": str(cell.seed),
        }
    if record["adaptation"]:
        details["adaptation_samples"] = str(record["adaptation"]["samples"])
    return {"name": str(cell), "id": model, "additional_details": details}


def _results(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the perplexities and accuracies of a record; a score that is not finite is None."""
    spec, metrics = record["spec"], record["metrics"]
    settings = spec["evaluation"]["perplexity"]
    parameters = {key: value for key, value in settings.items() if key != "text"}
    yield _perplexity("perplexity", "", settings["text"], parameters, metrics[steps.PERPLEXITY])
    if drift := metrics.get(steps.DRIFT):
        text, own = spec["calibration"]["text"], {key: drift[key] for key in ("length", "windows")}
        yield _perplexity("held_out_perplexity", "held-out ", text, own, drift)
    tasks = spec["evaluation"].get("tasks", {})
    for name, found in metrics.get(steps.TASKS, {}).get("tasks", {}).items():
        yield {
            "evaluation_result_id": f"accuracy_{name}",
            "evaluation_name": name,
            "source_data": _data(name, tasks["tasks"][name]),
            "metric_config": {
                "evaluation_description": "zero-shot accuracy: the choice with the highest "
                "log-likelihood is the right one",
                "metric_id": "accuracy",
                "metric_name": "Accuracy",
                "metric_kind": "accuracy",
                "metric_unit": "proportion",
                "metric_parameters": {"limit": tasks["limit"], "seed": tasks["seed"]},
                "lower_is_better": False,
                "score_type": "continuous",
                "min_score": 0.0,
                "max_score": 1.0,
            },
            "score_details": {
                "score": found["accuracy"],
                "details": {
                    "documents_in_all": str(found["documents_in_all"]),
                    "task_version": str(found["version"]),
                    "prompts_sha256": found["prompts_sha256"],
                    "sample_sha256": found["sample_sha256"],
                },
                "uncertainty": _uncertainty(
                    found["accuracy_standard_error"], _OVER_DOCUMENTS, found["documents"]
                ),
            },
        }


def _perplexity(
    identifier: str,
    which: str,
    text: Mapping[str, Any],
    parameters: Mapping[str, Any],
    found: Mapping[str, Any],
) -> dict[str, Any]:
    details = {"token_ids_sha256": found["token_ids_sha256"], "loss": str(found["loss"])}
    # Perplexity per byte does not depend on the tokenizer.
    for key in ("predicted_tokens", "byte_perplexity", "bits_per_byte"):
        if found.get(key) is not None:
            details[key] = str(found[key])
    return {
        "evaluation_result_id": identifier,
        "evaluation_name": f"perplexity on {which}{text['name']}",
        "source_data": _data(text["name"], text),
        "metric_config": {
            "evaluation_description": "exponential of the mean loss over all predicted tokens",
            "metric_id": "perplexity",
            "metric_name": "Perplexity per token",
            "metric_kind": "perplexity",
            "metric_parameters": dict(parameters),
            "lower_is_better": True,
            "score_type": "continuous",
            "min_score": 1.0,
            "max_score": "Infinity",
        },
        "score_details": {
            "score": found["perplexity"],
            "details": details,
            "uncertainty": _uncertainty(
                found["perplexity_standard_error"], _OVER_WINDOWS, found["windows"]
            ),
        },
    }


def _uncertainty(error: float | None, method: str, amount: int) -> dict[str, Any]:
    return {"standard_error": {"value": error, "method": method}, "num_samples": amount}


def _data(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a text or task comes from: the hub, a Python package, or a local file."""
    source: dict[str, Any] = {"dataset_name": name, "additional_details": _place(entry)}
    if "repository" in entry:
        return {**source, "source_type": "hf_dataset", "hf_repo": entry["repository"]}
    if "package" in entry:
        page = f"https://pypi.org/project/{entry['package']}/{entry['version']}/"
        return {**source, "source_type": "url", "url": [page]}
    return {**source, "source_type": "other"}


def _place(entry: Mapping[str, Any]) -> Details:
    """Return what tells a file at its source from others; of a local path, only its last part."""
    found = {key: str(entry[key]) for key in _PLACE if key in entry}
    return found | ({"file": Path(entry["path"]).name} if "path" in entry else {})
