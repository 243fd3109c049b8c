"""Speed of the zero-shot tasks compared with lm-eval's own model class (a part of `make bench`)."""

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from freelunch.core.artifact import Artifact
from freelunch.evaluation.tasks import Asked, PackedLM, load_tasks, sample
from freelunch.model.checkpoint import StreamedModel
from freelunch.study.paths import Paths
from freelunch.study.steps import TASK
from measuring import likelihoods_of
from timing import say, seconds

MODEL = Paths.model("smollm2-135m")
TASKS = ("hellaswag", "arc_easy", "openbookqa")
DOCUMENTS = 60
BATCHES = (1, 4, 16)
BOUND = 1.8


def main() -> None:
    """Ask both models the same documents in turns; lm-eval's class uses the best of its batch
    sizes.
    """
    torch.set_num_threads(2)
    packed = StreamedModel(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def theirs(size: int, softmax_dtype: str | None = None) -> HFLM:
        return HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=size, softmax_dtype=softmax_dtype
        )

    for task in TASKS:
        with tempfile.TemporaryDirectory() as scratch:
            requests = requests_of(task, Path(scratch))
            times = {
                size: seconds(partial(theirs(size).loglikelihood, requests, disable_tqdm=True))
                for size in BATCHES
            }
            best = min(times, key=times.__getitem__)
            works = [
                partial(theirs(best).loglikelihood, requests, disable_tqdm=True),
                partial(ours_of, packed, requests, Path(scratch)),
            ]
            ratios = [seconds(works[0]) / seconds(works[1]) for _ in range(3)]
            # In float32, lm-eval's own log-softmax is off by a few 1e-4 for a long answer.
            exact, ours = theirs(best, "float64").loglikelihood(requests), works[1]()
        pairs = zip(ours, exact, strict=True)
        difference = max(abs(a - b) for (a, _), (b, _) in pairs)
        batches = f"batches of {best}"
        say(f"{task}, HFLM's time / ours", statistics.median(ratios), least=BOUND, note=batches)
        say(f"{task}, largest difference of a log-likelihood", difference, most=1e-4)


def ours_of(
    model: StreamedModel, requests: Sequence[Instance], scratch: Path
) -> list[tuple[float, bool]]:
    """Return the log-likelihoods of requests, their tokens included in the work."""
    lm = PackedLM(model)
    with suppress(Asked):
        lm.loglikelihood(list(requests))
    return list(likelihoods_of(model, lm.requests, scratch).values)


def requests_of(task: str, scratch: Path) -> Sequence[Instance]:
    """Return lm-eval's requests for a sample of a task's documents."""
    artifact = Artifact(Paths.task(task), TASK)
    documents = sample(artifact.facts["documents"], DOCUMENTS, 0)
    loaded = load_tasks({task: artifact}, {task: documents}, scratch)["tasks"][task]
    loaded.build_all_requests()
    return loaded.instances  # type: ignore[no-any-return]
