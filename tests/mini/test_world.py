"""What the captions of the mini world say: deterministic, in splits, with the promised shares, and false where they must be."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import sbv2bench
from sbv2bench.mini import rendering, world
from sbv2bench.mini.world import ATTRIBUTES, FREE, SPLITS, Scenes, captions, hard_negatives, random_uniform, scenes

_spec = importlib.util.spec_from_file_location("mini_world_oracle", Path(__file__).with_name("oracle.py"))
assert _spec and _spec.loader
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

MANY = 20_000
NAMES = list(ATTRIBUTES)
# sha256 of the first 64 captions of each split, seed 0, one a line. Weights are trained on this world: never edit these
# without training everything again.
GOLDEN = {
    "training": "da6ea09204f6d2a110c352659ec2d654fad8f87d8f8e769d28c837ee57a5c1f4",
    "choosing": "34cfcc85a9d7ab75aa06f54595f5066ac557372ded8511439e84ace2e90b14ab",
    "reporting": "4511fd0ced132aceff72c835f593b7a42106d0f9f95f3a7101c7e269c8c46aa6",
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Scenes]:
    return {split: scenes(split, range(MANY)) for split in SPLITS}


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _same(a: Scenes, b: Scenes) -> bool:
    fields = ("attributes", "mentioned_last", "wording", "phrasing")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in fields)


def _parsed(lines: list[str]) -> np.ndarray:
    return np.array([oracle.parse_caption(line) for line in lines])


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_those_that_the_weights_were_trained_on(split: str) -> None:
    assert _digest(captions(scenes(split, range(64)))) == GOLDEN[split]


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_depends_on_its_index_alone(split: str) -> None:
    whole = scenes(split, range(600))
    order = np.random.default_rng(0).permutation(600)
    assert _same(scenes(split, order), whole[order])
    assert _same(scenes(split, iter(range(0, 600, 7))), whole[::7])
    assert _same(scenes(split, range(600)), whole)
    for index in (0, 1, 299, 599):
        assert _same(scenes(split, [index]), whole[[index]])
    far = [2**56 - 1, 5, 2**40]
    assert _same(scenes(split, far)[[1]], whole[[5]])
    assert len(scenes(split, [])) == 0
    assert captions(scenes(split, [])) == []


def test_another_process_says_and_draws_the_same() -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from sbv2bench.mini import rendering, world\n"
        "for split in world.SPLITS:\n"
        "    drawn = world.scenes(split, range(40), seed=3)\n"
        "    false = world.hard_negatives(drawn, np.arange(40), seed=3)\n"
        "    said = '\\n'.join(world.captions(drawn) + world.captions(false)).encode()\n"
        "    print(hashlib.sha256(said + rendering.render(drawn, np.arange(40), seed=3).tobytes()).hexdigest())\n"
    )
    root = str(Path(sbv2bench.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "77"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = []
    for split in SPLITS:
        mine = scenes(split, range(40), seed=3)
        said = "\n".join(captions(mine) + captions(hard_negatives(mine, np.arange(40), seed=3))).encode()
        here.append(hashlib.sha256(said + rendering.render(mine, np.arange(40), seed=3).tobytes()).hexdigest())
    assert ran.stdout.split() == here


def test_seeds_make_other_worlds() -> None:
    assert captions(scenes("training", range(200), seed=0)) != captions(scenes("training", range(200), seed=1))
    for seed in (-1, -(10**30), 2**63, 10**40, np.int64(7), np.int64(-7)):
        one, two = random_uniform(seed, 1, np.arange(50), 3), random_uniform(int(seed) + 1, 1, np.arange(50), 3)
        assert np.abs(one - two).max() > 0.1
        assert np.array_equal(one, random_uniform(int(seed), 1, np.arange(50), 3))
        assert len(captions(scenes("choosing", range(5), seed=seed))) == 5


def test_no_caption_is_in_two_splits(drawn: dict[str, Scenes]) -> None:
    said = {split: set(captions(drawn[split])) | set(captions(scenes(split, range(MANY), seed=1))) for split in SPLITS}
    assert len(set.union(*said.values())) == sum(len(texts) for texts in said.values())
    for split in SPLITS:  # and no split is exhausted by a few sentences
        assert len(said[split]) > 8_000


def test_there_are_twenty_thousand_distinct_captions(drawn: dict[str, Scenes]) -> None:
    assert len(set(captions(scenes("training", range(40_000))))) >= 20_000
    assert len(set().union(*(captions(drawn[split]) for split in SPLITS))) >= 20_000


@pytest.mark.parametrize("split", SPLITS)
def test_an_unknown_split_is_refused(split: str) -> None:
    for wrong in (split.upper(), split[:-1], ""):
        with pytest.raises(ValueError, match="training, choosing, reporting"):
            scenes(wrong, range(3))


def test_training_attributes_are_uniform(drawn: dict[str, Scenes]) -> None:
    for name, values in ATTRIBUTES.items():
        column = drawn["training"].column(name)
        counts = np.bincount(column[column != FREE], minlength=len(values))
        assert len(counts) == len(values), name
        if name == "layout":  # single objects have a share of their own
            counts = counts[1:]
        assert stats.chisquare(counts).pvalue > 0.003, (name, counts)


@pytest.mark.parametrize("split", SPLITS)
def test_shares(split: str, drawn: dict[str, Scenes]) -> None:
    here = drawn[split]
    pair = here.column("layout") > 0
    # Short captions are few (about 60 of a small split carry a tenth of its weight), so a small split is less even.
    slack = 0.01 if split == "training" else 0.025
    assert abs(pair.mean() - 0.30) < slack
    assert abs((here.column("texture_0")[~pair] != FREE).mean() - 0.70) < slack + 0.01
    assert abs((here.column("size")[~pair] != FREE).mean() - 0.50) < slack + 0.01
    for name in ("texture_0", "texture_1"):
        assert abs((here.column(name)[pair] != FREE).mean() - 0.25) < slack + 0.01
    assert abs(here.mentioned_last[pair].mean() - 0.5) < 0.03
    assert (here.column("size")[pair] == FREE).all()
    assert not here.mentioned_last[~pair].any()
    assert (here.attributes[~pair][:, 6:] == FREE).all()
    assert (here.attributes[:, :4] != FREE).all()
    assert (here.attributes[pair][:, 6:8] != FREE).all()
    for wording in range(3):
        assert abs((here.wording == wording).mean() - 1 / 3) < 0.03
    assert abs(here.phrasing.mean() - 0.5) < 0.03
    for name, values in ATTRIBUTES.items():
        if name != "layout":
            named = here.column(name)[here.column(name) != FREE]
            share = np.bincount(named, minlength=len(values)) / len(named)
            assert np.abs(share * len(values) - 1).max() < 0.16, (name, share)


@pytest.mark.parametrize("split", SPLITS)
def test_an_independent_parser_reads_the_scene_back(split: str, drawn: dict[str, Scenes]) -> None:
    here = drawn[split][:3_000]
    assert np.array_equal(_parsed(captions(here)), here.attributes)


def test_the_parser_is_strict() -> None:
    assert oracle.parse_caption("a photo of a small striped red star") == [0, 0, 3, 0, 1, 0, FREE, FREE, FREE]
    assert oracle.parse_caption("an orange ring with dots under a cyan cross, neon") == [3, 2, 5, 4, FREE, FREE, 4, 1, 2]
    for wrong in (
        "a photo of a orange star",
        "a photo of an red star",
        "a red star",
        "a photo of a red star, neon",
        "a photo of a plain red star with dots",
        "a photo of a red star beside a blue star",
        "a photo of a small red star above a blue star",
    ):
        with pytest.raises(ValueError, match=r"object|sentence|twice|article|size"):
            oracle.parse_caption(wrong)


def _negatives(split: str) -> tuple[Scenes, Scenes, np.ndarray]:
    true = scenes(split, range(4_000))
    keys = np.arange(4_000) + 17
    return true, hard_negatives(true, keys), keys


@pytest.mark.parametrize("split", SPLITS)
def test_hard_negatives_change_one_thing_and_are_false_of_the_picture(split: str) -> None:
    true, false, keys = _negatives(split)
    said, unsaid = captions(true), captions(false)
    assert all(a != b for a, b in zip(said, unsaid, strict=True))
    before, after = _parsed(said), _parsed(unsaid)
    assert np.array_equal(after, false.attributes)
    swapped = before.copy()
    swapped[:, 2:5], swapped[:, 6:9] = before[:, 6:9], before[:, 2:5]
    differs = before != after
    one = (differs.sum(axis=1) == 1) & ((before == FREE) == (after == FREE)).all(axis=1)
    pair = before[:, 1] > 0
    swap = ~one & pair & (swapped == after).all(axis=1)
    assert (one | swap).all()
    assert not (differs[:, 1] & ~pair).any()
    assert (after[pair, 1] > 0).all()
    # False of the picture: something that it names is not so, whatever the caption left open.
    for seed in (0, 1):
        shown = rendering.complete(true, keys, seed)
        assert ((after != FREE) & (after != shown)).any(axis=1).all()
    # Every attribute is made wrong at times; a relation both by turning and by swapping.
    changed = differs[one].mean(axis=0)
    assert (changed > 0.005).all(), changed
    assert 0.25 < swap.sum() / (swap.sum() + (one & differs[:, 1]).sum()) < 0.75
    # Every wrong value is met.
    for column, values in enumerate(ATTRIBUTES.values()):
        rows = one & differs[:, column]
        pairs = {(int(a), int(b)) for a, b in zip(before[rows, column], after[rows, column], strict=True)}
        assert {b for _, b in pairs} == set(range(len(values))) - ({0} if NAMES[column] == "layout" else set())


def test_hard_negatives_keep_the_sentence_and_the_input() -> None:
    true = scenes("training", range(500))
    copy = scenes("training", range(500))
    keys = np.arange(500)
    false = hard_negatives(true, keys)
    assert _same(true, copy)
    assert all(np.array_equal(getattr(false, name), getattr(true, name)) for name in ("mentioned_last", "wording", "phrasing"))
    order = np.random.default_rng(1).permutation(500)
    assert _same(hard_negatives(true[order], keys[order]), false[order])
    assert (hard_negatives(true, keys + 500).attributes != false.attributes).any(axis=1).mean() > 0.5
    assert (hard_negatives(true, keys, seed=1).attributes != false.attributes).any(axis=1).mean() > 0.5


def test_a_relation_between_like_objects_is_turned_not_swapped() -> None:
    like = np.tile([0, 1, 2, 3, FREE, FREE, 2, 3, FREE], (2_000, 1))
    zeros = np.zeros(2_000, dtype=np.int64)
    false = hard_negatives(Scenes(like, zeros.astype(bool), zeros, zeros), np.arange(2_000))
    assert ((false.attributes != like).sum(axis=1) == 1).all()
    assert set(false.column("layout").tolist()) == {1, 2}


def test_random_numbers_are_uniform_and_independent() -> None:
    u = random_uniform(5, 1, np.arange(MANY), 6)
    assert u.shape == (MANY, 6)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 0.003
    assert stats.chisquare(np.histogram2d(u[:, 0], u[:, 1], bins=8, range=[[0, 1], [0, 1]])[0].ravel()).pvalue > 0.003
    # Against its neighbours by field, index, stream and seed: a correlation of 0.03 is four standard errors.
    others = [
        np.roll(u, 1, axis=1),
        np.roll(u, 1, axis=0),
        random_uniform(5, 2, np.arange(MANY), 6),
        random_uniform(6, 1, np.arange(MANY), 6),
        random_uniform(5, 1, np.arange(MANY) + 2**40, 6),
        random_uniform(-5, 1, np.arange(MANY), 6),
    ]
    for number, other in enumerate(others):
        for a, b in zip(u.T, other.T, strict=True):
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.03, number
    assert len(np.unique(np.concatenate([u, *others[2:]]))) == 5 * u.size
    assert np.array_equal(random_uniform(5, 1, np.array([7, 3]), 4), u[[7, 3], :4])


def test_the_vocabulary_is_that_of_the_oracle() -> None:
    assert [ATTRIBUTES[name] for name in ("style", "shape_1", "colour_1", "texture_1", "size")] == [
        oracle.STYLES,
        oracle.SHAPES,
        oracle.COLOURS,
        oracle.TEXTURES,
        oracle.SIZES,
    ]
    assert tuple(NAMES) == oracle.NAMES
    assert world.PAIR_SHARE == 0.3
