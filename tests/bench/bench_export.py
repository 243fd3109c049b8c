"""What sparsity buys: bytes, memory and speed beside the dense model's (a part of `make bench`)."""

import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_pruning import MODEL

from freelunch.core.artifact import Artifact
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import open_states
from freelunch.model.mask_store import assemble_model
from freelunch.model.token_ids import KIND
from freelunch.pruning.export import export
from freelunch.pruning.prune import prune_model
from freelunch.pruning.sharing import Pruning
from freelunch.study.criteria import read_criterion
from freelunch.study.patterns import Pattern
from freelunch.study.steps import DENSE_ACTIVATIONS
from freelunch.study.study import Study
from timing import say

# Each checkpoint has a process of its own: 256 tokens at once, and then 32 one by one, five times.
_SERVE = """
import json, re, statistics, sys, time, torch, transformers
torch.set_num_threads(2)
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
ids = torch.arange(1000, 1256)[None]
def rate(tokens, work):
    times = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return tokens / statistics.median(times[1:])
with torch.inference_mode():
    prefill = rate(256, lambda: model(ids))
    steps = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False}
    decode = rate(32, lambda: model.generate(ids[:, :8], **steps))
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
rates = {"tokens/s, 256 at once": prefill, "tokens/s, one by one": decode}
print(json.dumps({"memory": peak, **rates}))
"""


def served(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _SERVE, str(folder)]
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return dict(json.loads(shown.splitlines()[-1]))


def size(checkpoint: Artifact) -> int:
    entries = checkpoint.files.items()
    return sum(entry["bytes"] for name, entry in entries if name.endswith(".safetensors"))


def made(
    model: StreamedModel, dense: Artifact, sample: Artifact, name: str, base: Path
) -> Artifact:
    criterion, pattern = name.split("-")
    pruning = Pruning(
        read_criterion({"score": criterion}),
        *(Pattern.parse(pattern), 0, base / name / "masks", "bench"),
    )
    masks = prune_model(model, dense, pruning, open_states(model, sample, None, base))
    return assemble_model(model, masks, [], base / name / "zeros", "bench")


def main() -> None:
    paths = Study.load(Path("config.yaml")).paths
    model = StreamedModel(paths.model(MODEL))
    dense = Artifact(paths.dense(MODEL, 0), DENSE_ACTIVATIONS)
    sample = Artifact(paths.calibration(MODEL, 0), KIND)
    with tempfile.TemporaryDirectory(dir="results") as folder:
        base = Path(folder)
        unstructured = made(model, dense, sample, "wanda-u50", base)
        units = made(model, dense, sample, "wanda_sp-s34", base)
        packed = export(unstructured.folder, base / "packed", "packed")
        forms = {
            "dense": model.artifact,
            "wanda-u50": unstructured,
            "wanda_sp-s34": units,
            "wanda_sp-s34, cut": export(units.folder, base / "cut", "cut"),
        }
        runs = [{name: served(each.folder) for name, each in forms.items()} for _ in range(3)]
        for name, each in forms.items():
            say(f"{name}: bytes / dense", size(each) / size(model.artifact), most=1)
            for what in runs[0][name]:
                ratio = statistics.median(run[name][what] / run["dense"][what] for run in runs)
                bound = {"most": math.inf} if what == "memory" else {"least": 0.0}
                say(f"{name}: {what} / dense", ratio, **bound)
        say("wanda-u50, packed: bytes / dense", size(packed) / size(model.artifact), most=1)
