"""The commands that are killed: what each is given and must leave, and what it may do twice. Another is one entry of JOBS."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from counted_samplers import CATALOG
from PIL import Image
from running import block_of
from standin_hub import serving
from tiny_models import write_tiny_student
from tiny_recipe import PAIRED, tiny_recipe, write_tiny_family
from tiny_suite import BLOCK, GENERATED, write_tiny_suite

from reference_trainer.training.checkpoint import checkpoint_step
from sbv2bench.evaluation.manifest import read_manifest
from sbv2bench.results import prompt_values, store

Environment = dict[str, str]
BLOCKS = -(-GENERATED // BLOCK)
WEIGHTS = "0,0.5,1"
TIMES = re.compile(r'"(seconds|images_per_second|date_utc|code)": [^,\n}]*')
SAMPLING = (
    "sbv2bench.cli", "sbv2bench.evaluation.evaluate", "sbv2bench.samplers.one_step",
    "sbv2bench.samplers.multi_step", "sbv2bench.samplers.image_folder",
    "sbv2bench.features.world", "sbv2bench.features.clip", "sbv2bench.report.terminal", "counted_samplers",
    "diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl", "torch.distributed",
    "scipy.stats",
)  # fmt: skip
TRAINING = (*SAMPLING, "sbv2bench.shell", "reference_trainer.loop", "reference_trainer.sweep", "torch.optim")


@dataclass(frozen=True)
class Job:
    """A command and what is known of it.

    words: with {inputs} for the folder that `prepare` fills once. values: what must be the same after all kills, of the folder
    that the command ran in. lost: of that folder after a kill, what was done and will be done again, in units (`unit`).
    ledger: of the folder at the end, how much was done in all, and how much need be. Neither where nothing is kept midway.
    complete: whether a killed run had finished all but its exit, after which the same command is another run.
    """

    name: str
    words: tuple[str, ...]
    prepare: Callable[[Path], None]
    values: Callable[[Path], object]
    unit: str = ""
    lost: Callable[[Path], float] | None = None
    ledger: Callable[[Path], tuple[int, int]] | None = None
    complete: Callable[[Path], bool] = lambda folder: False
    begin: Callable[[Path, Path], None] = lambda inputs, folder: None
    ranks: int = 1
    imports: tuple[str, ...] = SAMPLING
    serving: Callable[[Path], AbstractContextManager[Environment]] = field(default=lambda inputs: nullcontext({}))


def hashes(folder: Path, *names: str) -> dict[str, str]:
    """SHA-256 of every file below a folder, hidden ones left out, and times taken out of JSON."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            content = path.read_bytes()
            if path.suffix in {".json", ".jsonl"}:
                content = TIMES.sub("", content.decode()).encode()
            if not names or name.startswith(names):
                found[name] = hashlib.sha256(content).hexdigest()
    return found


def results(folder: Path) -> object:
    """The metrics of a folder's newest result, with the captions' values; a kill after the first is no reason for another."""
    found = [(block_of(store.load(path)), path) for path in store.find(folder / "results")]
    assert found and len({block for block, _ in found}) == 1, f"{len(found)} results, not all alike"
    newest = found[-1][1]
    values = {key: array.tolist() for key, array in prompt_values.read(store.load(newest), newest).items()}
    return {"metrics": json.loads(found[0][0]), "values": values, "images": hashes(newest.with_name(f"{newest.stem}-images"))}


def blocks_sampled(folder: Path) -> tuple[int, int]:
    """Blocks that were begun in all, and those of one run."""
    return len((folder / "sampled").read_text().splitlines()), BLOCKS


def _with_images(folder: Path) -> bool:
    """Whether a result's images are there: nobody keeps them for a second result."""
    return any((folder / "results").glob("*/*/*/[!.]*-images"))


def steps_lost(run: Path, every: int) -> float:
    """Checkpoint intervals that were done and are in no checkpoint. The one that is just being written need not be in it."""
    kept, log = checkpoint_step(run / "checkpoints"), run / "log.jsonl"
    done = 0
    for line in log.read_text().splitlines() if log.is_file() else ():
        with_step = re.match(r'\{"step": (\d+)', line)
        done = int(with_step[1]) if with_step else done
    lost = max(0, done - (0 if kept is None else kept.step))
    being_written = any((run / "checkpoints").glob(".*.part"))
    return max(0.0, lost - every * being_written) / every


def _suite(inputs: Path) -> None:
    catalog = write_tiny_suite(inputs / "family")
    declared = yaml.safe_load(catalog.read_text())
    other = write_tiny_student(inputs / "family" / "other", inputs / "family" / "model", seed=7)
    declared["models"]["local/other"] = declared["models"]["local/student"] | {"location": str(other)}
    catalog.write_text(yaml.safe_dump(declared | {"samplers": CATALOG}, sort_keys=False))


def _pictures(inputs: Path) -> None:
    _suite(inputs)
    (inputs / "pictures").mkdir()
    for number in range(GENERATED):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(inputs / "pictures" / f"{number:04d}.png")


def _recipe(inputs: Path) -> None:
    family = write_tiny_family(inputs / "family")
    recipe = tiny_recipe(family, steps=9, log_every=1, regularisation=PAIRED, export_every=4)
    tree = recipe.model_dump(mode="json", exclude_defaults=True)
    (inputs / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def _trained(folder: Path) -> object:
    run = folder / "run"
    kept = ("export/", "exports/", "samples/", "checkpoints/", "done.json", "log.jsonl", "recipe.json")
    return hashes(run, *kept)


def _ladder(folder: Path) -> object:
    return hashes(folder / "runs", *(f"{rung}/{what}" for rung in RUNGS for what in ("export/", "done.json", "log.jsonl")))


RUNGS = ("extractor", "autoencoder", "taesd")


def _captions(inputs: Path) -> None:
    lines = [f"a {size} {colour} {thing} number {n}" for n in range(1500) for size in ("small", "large")
             for colour in ("red", "blue", "green") for thing in ("circle", "star", "house")]  # fmt: skip
    (inputs / "captions.txt").write_text("\n".join(lines) + "\n")


def _committed(inputs: Path) -> None:
    committed = Path(__file__).parents[2] / "leaderboards" / "results" / "mini"
    chosen = [
        path for model in ("sd21", "sd-turbo", "sbv2-merged", "real") for path in sorted((committed / model).rglob("*@v*/*.json"))
    ]
    for number, path in enumerate(chosen[:5]):
        target = inputs / "given" / f"{number}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if (values := prompt_values.path_beside(path)).is_file():
            shutil.copy(values, prompt_values.path_beside(target))


@contextmanager
def _hub(inputs: Path) -> Iterator[Environment]:
    """A hub with a pipeline, one of whose files is an asset with a URL of its own too."""
    with serving(**{"lab/tiny": inputs / "family" / "model"}) as hub:
        hub.slow = 0.02
        weights = inputs / "family" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
        asset = {
            "filename": "unet.safetensors",
            "urls": [f"{hub.url}/lab/tiny/resolve/main/unet/{weights.name}"],
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "bytes": weights.stat().st_size,
            "licence": "none",
        }
        (inputs / "assets.yaml").write_text(yaml.safe_dump({"assets": {"tiny-unet": asset}}))
        yield {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}


def _run(inputs: Path, home: str, *words: str) -> None:
    """Another command of the suite's, to the end, before the one that is killed. home: folder of its cache, below inputs."""
    own = {"SBV2BENCH_HOME": str(inputs / home), "SAMPLED": str(inputs / "sampled"), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-m", *words], env=os.environ | own, cwd=inputs, check=True, capture_output=True)


def _evaluated(inputs: Path) -> None:
    _suite(inputs)
    _run(inputs, "home", *_in(inputs, EVAL), "--metrics", "clip", "--results", "results")
    (found,) = store.find(inputs / "results")
    given = inputs / "results" / "result.json"  # where its command finds it
    prompt_values.path_beside(found).replace(prompt_values.path_beside(given))
    found.replace(given)


def _scored(inputs: Path) -> None:
    _evaluated(inputs)
    _run(inputs, "home", *_in(inputs, EXPORT), "images")
    images = read_manifest(inputs / "images").images
    (inputs / "scores.csv").write_text("id,value\n" + "".join(f"{image.id},{image.index / 8}\n" for image in images))


def _with_results(inputs: Path, folder: Path) -> None:
    shutil.copytree(inputs / "results", folder / ".results")
    (folder / ".results").rename(folder / "results")  # whole, for the second reader


def _shards(inputs: Path) -> None:
    _suite(inputs)
    for part in ("1", "2"):
        _run(inputs, f"machine{part}", *_in(inputs, EVAL), "--shard", f"{part}/2")


def _in(inputs: Path, words: tuple[str, ...]) -> list[str]:
    return [word.format(inputs=inputs) for word in words]


def _points(folder: Path) -> object:
    """The metrics of every setting of a sweep; a kill between two of them is no reason for another."""
    found: dict[str, set[str]] = {}
    for path in store.find(folder / "results"):
        result = store.load(path)
        found.setdefault(f"{result.model.guidance_scale:g}", set()).add(block_of(result))
    assert all(len(blocks) == 1 for blocks in found.values()), found.keys()
    return {guidance: blocks.pop() for guidance, blocks in sorted(found.items())}


def _downloaded(folder: Path) -> object:
    return hashes(folder / "hub", "models--lab--tiny/snapshots/") | hashes(folder / "home", "assets/files/")


EVAL = ("sbv2bench", "eval", "--model", "local/student", "--suite", "tiny", "--catalog", "{inputs}/family/catalog.yaml")
EXPORT = ("sbv2bench", "export", "{inputs}/results/result.json", "--catalog", "{inputs}/family/catalog.yaml", "--to")
GUIDANCE = "1,2,3"
JOBS = (
    Job("eval", (*EVAL, "--save-images", "all"), _suite, results, "block", ledger=blocks_sampled, complete=_with_images),
    Job("eval, 2 ranks", EVAL, _suite, results, "block", ledger=blocks_sampled, ranks=2),
    Job(
        "score",
        ("sbv2bench", "score", "--images", "{inputs}/pictures", *EVAL[4:]),
        _pictures, results, "block", ledger=blocks_sampled,
    ),
    Job(
        "sweep",
        ("sbv2bench", "sweep", "local/teacher", "--guidance-scale", GUIDANCE, *EVAL[4:]),
        _suite,
        _points,
        "block",
        ledger=lambda folder: (blocks_sampled(folder)[0], BLOCKS * len(GUIDANCE.split(","))),
    ),
    Job(
        "merge-shards", ("sbv2bench", "merge-shards", "{inputs}/machine1", "{inputs}/machine2"),
        _shards, lambda folder: hashes(folder / "home" / "features"),
    ),
    Job("export", (*EXPORT, "images"), _evaluated, lambda folder: hashes(folder / "images"), "block", ledger=blocks_sampled),
    Job(
        "import-scores",
        (
            "sbv2bench", "import-scores", "{inputs}/scores.csv", "--manifest", "{inputs}/images/manifest.jsonl", "--metric",
            "vqascore", "--tool", "t2v", "--tool-version", "3", "--results", "results", *EVAL[6:],
        ),
        _scored,
        lambda folder: max((json.loads(block_of(store.load(path))) for path in store.find(folder / "results")), key=len),
        begin=_with_results,
    ),
    Job(
        "grid",
        ("sbv2bench", "grid", "local/student", "local/other", *EVAL[4:], "--captions", "0,1,2", "--output", "made/grid.png"),
        _suite, lambda folder: hashes(folder / "made"), imports=(*SAMPLING, "sbv2bench.report.picture"),
    ),
    Job(
        "trainer's sweep",
        ("reference_trainer", "sweep", "local/student", "local/other", "--weights", WEIGHTS, "--suite", "tiny"),
        _suite,
        lambda folder: json.loads((folder / "sweep" / "sweep.json").read_text())["rows"],
        "block",
        ledger=lambda folder: (blocks_sampled(folder)[0], BLOCKS * len(WEIGHTS.split(","))),
        begin=lambda inputs, folder: shutil.copy(inputs / "family" / "catalog.yaml", folder / "sbv2bench.yaml") and None,
        imports=TRAINING,
    ),
    Job(
        "train",
        ("reference_trainer", "train", "{inputs}/recipe.yaml", "--output", "run", "--device", "cpu"),
        _recipe, _trained, "checkpoint interval", lost=lambda folder: steps_lost(folder / "run", 2), imports=TRAINING,
    ),
    Job(
        "ladder",
        ("tiny_ladder",),
        lambda inputs: None,
        _ladder,
        "checkpoint interval",
        lost=lambda folder: max(steps_lost(folder / "runs" / rung, 2) for rung in RUNGS),
        imports=(*TRAINING, "reference_trainer.ladder"),
    ),
    Job(
        "merge",
        ("reference_trainer", "merge", "{inputs}/family/model", "{inputs}/family/other", "--weight", "0.3", "--output", "merged"),
        _suite, lambda folder: hashes(folder / "merged"), imports=(*TRAINING, "reference_trainer.merge"),
    ),
    Job(
        "prompts build",
        ("reference_trainer", "prompts", "build", "--from", "{inputs}/captions.txt", "--output", "list", "--exclude", "none"),
        _captions, lambda folder: hashes(folder / "list"), imports=("sbv2bench.shell", "reference_trainer.prompts.build"),
    ),
    Job(
        "download",
        ("sbv2bench", "download", "hub:lab/tiny", "tiny-unet", "--catalog", "{inputs}/assets.yaml", "--dtype", "float32"),
        _suite, _downloaded, imports=("sbv2bench.cli", "sbv2bench.evaluation.download", "torch", "huggingface_hub"), serving=_hub,
    ),
    Job(
        "leaderboard",
        ("sbv2bench", "leaderboard", "--add", *(f"{{inputs}}/given/{number}.json" for number in range(5)), "--dir", "boards"),
        _committed,
        lambda folder: hashes(folder / "boards"),
        imports=("sbv2bench.cli", "sbv2bench.boards.files", "sbv2bench.boards.page"),
    ),
)  # fmt: skip


def prepared(job: Job, inputs: Path) -> Path:
    """The folder of a job's inputs, filled."""
    inputs.mkdir(parents=True)
    job.prepare(inputs)
    return inputs


def named(name: str) -> Job:
    """A job by its name."""
    return next(job for job in JOBS if job.name == name)


def words(job: Job, inputs: Path) -> list[str]:
    """The command line of a job."""
    return _in(inputs, job.words)


__all__: list[Any] = ["JOBS", "Environment", "Job", "named", "prepared", "words"]
