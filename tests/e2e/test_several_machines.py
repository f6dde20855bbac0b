"""torchrun over nodes: two launchers of two processes each, which meet at an address and give the numbers of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from running import block_of
from safetensors.torch import load_file
from tiny_recipe import tiny_recipe, write_tiny_family
from tiny_suite import write_tiny_suite

from sbv2bench.results import store

pytestmark = [pytest.mark.ci, pytest.mark.timeout(900)]  # each starts several processes, which a busy machine makes wait


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def on_nodes(words: list[str], folders: list[Path]) -> list[tuple[int, str]]:
    """Exit code and stderr of each node's launcher of two processes; a node per folder, with a cache of its own there."""
    at = f"--master_addr=127.0.0.1 --master_port={free_port()} --nnodes={len(folders)} --nproc_per_node=2".split()
    started = []
    for node, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        own = {"SBV2BENCH_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "torch.distributed.run", *at, f"--node_rank={node}", "-m", *words]
        started.append(
            subprocess.Popen(
                command, cwd=folder, env=os.environ | own, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        )
    said = [process.communicate(timeout=800)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def test_an_evaluation_over_two_machines_has_the_bits_of_one_process(tmp_path: Path) -> None:
    catalog = write_tiny_suite(tmp_path / "family")
    words = ["sbv2bench", "eval", "--model", "teacher", "--suite", "tiny", "--catalog", str(catalog)]
    (tmp_path / "alone").mkdir()
    own = os.environ | {"SBV2BENCH_HOME": str(tmp_path / "alone" / "home"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *words], cwd=tmp_path / "alone", env=own, check=True, capture_output=True)
    for code, said in on_nodes(words, [tmp_path / "one", tmp_path / "two"]):
        assert code == 0, said[-2000:]
    (alone,), (found,) = ([store.load(path) for path in store.find(tmp_path / name / "results")] for name in ("alone", "one"))
    assert found.provenance["world_size"] == 4 and block_of(found) == block_of(alone)
    assert not (tmp_path / "two" / "results").exists()  # rank 0 writes


def test_a_training_over_two_machines_is_that_of_one(tmp_path: Path) -> None:
    recipe = tiny_recipe(write_tiny_family(tmp_path / "family"), steps=3, optimiser={"epsilon": 1e-3})
    (tmp_path / "recipe.yaml").write_text(recipe.model_dump_json())
    words = ["reference_trainer", "train", str(tmp_path / "recipe.yaml"), "--device", "cpu", "--output"]
    for code, said in on_nodes([*words, str(tmp_path / "run")], [tmp_path / "one", tmp_path / "two"]):
        assert code == 0, said[-2000:]
    subprocess.run([sys.executable, "-m", *words, str(tmp_path / "alone")], check=True, capture_output=True)
    weights = [load_file(next((tmp_path / name / "export" / "unet").glob("*.safetensors"))) for name in ("run", "alone")]
    assert all(value.allclose(weights[1][key], rtol=1e-4, atol=1e-6) for key, value in weights[0].items())


EACH_SEES_ITS_OWN = """
import sys
from pathlib import Path
from torch import distributed
from reference_trainer.run_folder import check_shared
from sbv2bench.errors import InputError
rank, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
try:
    check_shared(folder, patience=1.0)
except InputError as error:
    print(error.message)
"""


@pytest.mark.parametrize("shared", [True, False])
def test_machines_that_see_other_folders_are_told(tmp_path: Path, shared: bool) -> None:
    folders = [tmp_path / "one", tmp_path / ("one" if shared else "two")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    port = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", EACH_SEES_ITS_OWN, str(rank), port, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for rank, folder in enumerate(folders)
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    expected = "process 1 does not see what process 0 writes there"
    assert all((expected in text) is not shared for text in said)
    assert not list(tmp_path.rglob(".shared"))
