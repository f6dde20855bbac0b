"""One registry: what names mean, what is refused, and that plugins and catalogs come in by the built-ins' door."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from PIL import Image

from sbv2bench.errors import InputError
from sbv2bench.machine.inventory import listed
from sbv2bench.registry import Registry
from sbv2bench.specs import MetricSpec, ModelSpec

PLUGIN = Path(__file__).parent / "example_plugin"


@pytest.fixture
def registry() -> Registry:
    return Registry.load()


def catalog(tmp_path: Path, text: str) -> Registry:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return Registry.load(path)


@pytest.mark.parametrize(
    ("reference", "suite", "found"),
    [
        ("sd21", "mini", "mini/sd21"),
        ("sd21", "mini-5k", "mini/sd21"),
        ("mini/sd21", "mini", "mini/sd21"),
        ("sd21", None, "mini/sd21"),
        ("sd-turbo", None, "mini/sd-turbo"),
        ("stabilityai/sd-turbo", None, "full/sd-turbo"),
        ("stabilityai/stable-diffusion-2-1-base", None, "full/sd21"),
        ("somebody/some-model", "mini", "local/somebody--some-model"),
        ("hub:mini/sd99", "mini", "local/mini--sd99"),
    ],
)
def test_what_a_model_name_means(registry: Registry, reference: str, suite: str | None, found: str) -> None:
    assert registry.model(reference, suite).id == found


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("sd12", "did you mean 'sd21'"),
        ("mini/sd22", "did you mean 'mini/sd21'"),
        ("stabilityai/sd-turbo-", "unknown model"),
        ("zzz", "unknown model 'zzz'"),
        ("", "unknown model ''"),
        ("./no-such-folder", "does not exist"),
        ("/no/such/folder", "does not exist"),
        ("full/sd21", "of family full"),
        ("stabilityai/sd-turbo", "of family full"),
    ],
)
def test_a_model_that_is_not_one(registry: Registry, reference: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        registry.model(reference, "mini")
    assert len(str(caught.value).splitlines()) <= 3


def test_a_bare_name_that_one_family_has(tmp_path: Path) -> None:
    text = "models:\n  full/large: {sampler: one_step, location: 'hub:a/large', steps: 1}\n"
    registry = catalog(tmp_path, text)
    assert registry.model("large").id == "full/large"
    with pytest.raises(InputError, match="of family full"):
        registry.model("large", "mini")


def test_unknown_names_of_every_kind_get_a_suggestion(registry: Registry) -> None:
    assert registry.suite("mini-5k").num_generated == 5000
    assert registry.metric("fid").keys == ("fid",)
    for look, wrong, right in (
        (registry.suite, "mini5k", "mini-5k"),
        (registry.metric, "fdi", "fid"),
        (registry.extractor, "clip_mini", "clip-mini"),
        (registry.sampler, "one-step", "one_step"),
    ):
        with pytest.raises(InputError, match=f"did you mean '{right}'"):
            look(wrong)


def test_folders(registry: Registry, tmp_path: Path) -> None:
    pipeline, declared, images, empty = (tmp_path / name for name in ("pipeline", "declared", "images", "empty"))
    for folder in (pipeline, declared, images, empty):
        folder.mkdir()
    (pipeline / "model_index.json").write_text("{}")
    (declared / "model_index.json").write_text("{}")
    fields = {"id": "mini/other", "family": "mini", "sampler": "one_step", "steps": 1, "timestep": 749, "location": "elsewhere"}
    (declared / "sbv2bench.json").write_text(json.dumps(fields))
    Image.new("RGB", (4, 4)).save(images / "1.PNG")
    found = [registry.model(str(folder), "mini") for folder in (pipeline, declared, images)]
    assert [spec.sampler for spec in found] == ["pipeline", "one_step", "image_folder"]
    assert [spec.id for spec in found] == ["local/pipeline", "local/declared", "local/images"]
    assert [spec.location for spec in found] == [str(pipeline), str(declared), str(images)]
    assert found[1].timestep == 749
    assert "by its own pipeline's defaults" in found[0].description and found[0].unstated == (
        "steps",
        "guidance_scale",
        "no_guidance",
    )
    with pytest.raises(InputError, match="found nothing in it"):
        registry.model(str(empty), "mini")
    (empty / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"found notes\.txt"):
        registry.model(str(empty), "mini")
    with pytest.raises(InputError, match="is a file"):
        registry.model(str(empty / "notes.txt"), "mini")


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "not JSON"), ("[]", "found list"), ('{"sampler": "pipeline", "stepz": 3}', "stepz"), ("{}", "sampler")],
)
def test_a_wrong_sbv2bench_json(registry: Registry, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "sbv2bench.json").write_text(content)
    with pytest.raises(InputError, match=says):
        registry.model(str(tmp_path), "mini")
    (tmp_path / "sbv2bench.json").write_text('{"id": "x", "sampler": "pipeline"}')
    assert registry.model(str(tmp_path), "mini").steps == 25


def test_a_sampler_that_nobody_registered(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "sbv2bench.json").write_text('{"id": "x", "sampler": "multistep"}')
    with pytest.raises(InputError, match="did you mean 'multi_step'"):
        registry.model(str(tmp_path), "mini")


def test_a_collision_is_refused_unless_replacing_is_said(registry: Registry) -> None:
    mine = ModelSpec(id="mini/sd21", family="mini", sampler="pipeline", steps=3)
    with pytest.raises(InputError, match="taken"):
        registry.add("model", mine)
    registry.add("model", mine, replaces=True)
    assert registry.model("sd21", "mini").steps == 3


@pytest.mark.parametrize("name", ["mini/../x", "mini/", "full/x", "mini/a b", "mini/a/b"])
def test_ids_that_cannot_be(registry: Registry, name: str) -> None:
    with pytest.raises(InputError):
        registry.add("model", ModelSpec(id=name, family="mini", sampler="pipeline"))
    registry.add("model", ModelSpec(id="mini/x.1-y_z", family="mini", sampler="pipeline"))


def test_kinds_and_specs_must_agree(registry: Registry) -> None:
    with pytest.raises(InputError, match="expected a kind"):
        registry.add("suite", ModelSpec(id="mini/x", family="mini", sampler="pipeline"))
    with pytest.raises(InputError, match="expected a kind"):
        registry.add("modle", ModelSpec(id="mini/x", family="mini", sampler="pipeline"))


def test_a_suite_from_another(tmp_path: Path) -> None:
    text = "suites: {mine: {extends: mini-5k, world_seed: 7, caption_offset: 500000, num_generated: 3000, num_reference: 5000}}"
    mine, base = catalog(tmp_path, text).suite("mine"), Registry.load().suite("mini-5k")
    assert (mine.prompts.world_seed, mine.prompts.caption_offset, mine.prompts.split) == (7, 500000, "reporting")
    assert (mine.num_generated, mine.num_reference, mine.metrics, mine.label_suffix) == (3000, 5000, base.metrics, "-mini")
    assert mine.description == ""
    assert mine.fingerprint() != base.fingerprint()


@pytest.mark.parametrize(
    ("fields", "inherits"),
    [
        ("reference: {location: val2014.zip}", True),
        ("metrics: [fid]", True),
        ("num_generated: 30000", True),
        ("prompts: {location: other.json}", False),
        ("prompts: {kind: file, location: my.csv}", False),
        ("num_generated: 5000", False),
    ],
)
def test_a_hash_of_captions_is_not_inherited_by_other_captions(tmp_path: Path, fields: str, inherits: bool) -> None:
    base = Registry.load().suite("coco2014-30k")
    suite = catalog(tmp_path, f"suites: {{mine: {{extends: coco2014-30k, {fields}}}}}").suite("mine")
    assert (suite.prompts.captions_sha256 == base.prompts.captions_sha256) is inherits
    said = "a" * 64
    prompts = f"prompts: {{kind: file, location: my.csv, captions_sha256: {said}}}"
    own = catalog(tmp_path, f"suites: {{mine: {{extends: coco2014-30k, {prompts}}}}}").suite("mine")
    assert own.prompts.captions_sha256 == said
    assert own.inherited.startswith("coco2014-30k: ")
    assert "reference" in own.inherited
    assert "prompts" not in own.inherited


def test_a_hash_of_photographs_is_not_inherited_by_others(tmp_path: Path) -> None:
    base = f"a: {{extends: coco2014-30k, reference: {{location: a.zip, content_sha256: {'a' * 64}}}}}"
    for fields, inherits in (("metrics: [fid]", True), ("reference: {location: b}", False), ("num_reference: 5", False)):
        suite = catalog(tmp_path, f"suites:\n  {base}\n  mine: {{extends: a, {fields}}}\n").suite("mine")
        assert suite.reference is not None
        assert (suite.reference.content_sha256 is not None) is inherits, fields


def test_captions_of_a_file_keep_the_renderings_of_the_suite_that_they_replace(tmp_path: Path) -> None:
    text = "suites:\n  a: {extends: mini, world_seed: 7}\n  mine: {extends: a, prompts: {kind: file, location: my.csv}}\n"
    suite = catalog(tmp_path, text).suite("mine")
    assert suite.rendered is not None
    assert (suite.rendered.world_seed, suite.prompts.kind) == (7, "file")
    assert suite.protocol()["rendered"] == {"kind": "world", "world_seed": 7, "split": "reporting", "caption_offset": 0}


def test_suites_extend_each_other_in_any_order_but_not_in_a_circle(tmp_path: Path) -> None:
    good = "suites:\n  a: {extends: b, num_generated: 10}\n  b: {extends: mini, num_reference: 11}\n"
    found = catalog(tmp_path, good).suite("a")
    assert (found.num_generated, found.num_reference) == (10, 11)
    with pytest.raises(InputError, match="circle"):
        catalog(tmp_path, "suites:\n  a: {extends: b}\n  b: {extends: a}\n")
    with pytest.raises(InputError, match="circle"):
        catalog(tmp_path, "suites: {a: {extends: a}}")
    replaced = catalog(tmp_path, "suites: {mini: {extends: mini, num_generated: 7, replaces: true}}").suite("mini")
    assert (replaced.num_generated, replaced.num_reference) == (7, 2000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("suites: {mine: {extends: mini5k}}", "expected one of"),
        ("suites: {mine: {extends: mini, num_generated: -1}}", r"suites\.mine\.num_generated: found -1"),
        ("suites: {mine: {extends: mini, colour: red}}", "colour"),
        ("suites: {mini: {extends: mini-5k}}", "taken"),
        ("modles: {}", "found modles"),
        ("models: [1]", "expected a mapping"),
        ("models: {a: {sampler: pipeline}, a: {sampler: one_step}}", "written twice"),
        ("models:\n  a: {sampler: pipeline}\n  a: {sampler: one_step}\n", "line 3: 'a' is written twice"),
        ("models: {[1]: {}}", r"found \[1\] as a key"),
        ("[" * 100_000, "not YAML"),
        ("models: {mini/a: {sampler: pipeline, family: full}}", "as the id says"),
        ("models: {a: {sampler: pipeline, steps: 5000}}", "steps: found 5000"),
        ("{", "not YAML"),
        ("!!python/object/apply:os.system [ls]", "not YAML"),
    ],
)
def test_a_wrong_catalog_says_where(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        catalog(tmp_path, text)
    assert "mine" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_suite_must_name_extractors_and_metrics_that_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="clip-mini"):
        catalog(tmp_path, "suites: {mine: {extends: mini, clip: clip-mini2}}").suite("mine")
    with pytest.raises(InputError, match="unknown metric"):
        catalog(tmp_path, "suites: {mine: {extends: mini, metrics: [fidd]}}").suite("mine")


def test_a_users_model_has_its_location_beside_the_catalog(tmp_path: Path) -> None:
    registry = catalog(
        tmp_path,
        "models: {mine: {sampler: pipeline, location: out/model, base: out/base},"
        " far: {sampler: pipeline, location: /far, base: package:mini/sd21}}\n"
        "extractors: {mine: {kind: open_clip, location: clip}}",
    )
    assert registry.model("far", "mini").location == "/far"
    assert registry.extractor("mine").location == str(tmp_path / "clip")
    assert registry.model("mine", "mini").location == str(tmp_path / "out" / "model")
    assert registry.model("mine", "mini").base == str(tmp_path / "out" / "base")
    assert registry.model("far", "mini").base == "package:mini/sd21"
    assert registry.model("mine", "mini").id == "local/mine"


def test_where_the_users_catalog_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("given", "variable", "sbv2bench"):
        (tmp_path / f"{name}.yaml").write_text(f"models: {{{name}: {{sampler: pipeline}}}}")
    monkeypatch.chdir(tmp_path)
    assert "local/sbv2bench" in Registry.load().models
    monkeypatch.setenv("SBV2BENCH_CATALOG", "variable.yaml")
    assert "local/variable" in Registry.load().models
    assert "local/given" in Registry.load(Path("given.yaml")).models
    with pytest.raises(InputError, match="does not exist"):
        Registry.load(Path("none.yaml"))


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """What pip would make of a plugin: its folder on the path, and a dist-info with its entry point."""
    info = tmp_path / "site" / f"{module}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[sbv2bench.plugins]\nexample = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()


def test_a_plugin_registers_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "local/grey" not in Registry.load().models
    installed(tmp_path, monkeypatch, "sbv2bench_example")
    monkeypatch.syspath_prepend(str(PLUGIN))
    registry = Registry.load()
    assert registry.model("grey", "mini").id == "local/grey"
    assert registry.sampler("grey").target == "sbv2bench_example:GreySampler"
    assert registry.metric("mine").keys == ("colour_distance",)
    (row,) = listed(registry, "plugins")
    assert (row["id"], row["origin"], row["verified"]) == ("example", "sbv2bench-example 0.1.0", True)
    assert registry.show("local/grey")["registered_by"] == "plugin example"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("def register(registry): 1 / 0", "ZeroDivisionError"),
        (
            "from sbv2bench.specs import ModelSpec\n"
            "def register(registry):\n"
            "    registry.add('model', ModelSpec(id='local/half', sampler='pipeline'))\n"
            "    registry.add('model', ModelSpec(id='mini/sd21', family='mini', sampler='pipeline'))",
            "taken",
        ),
        (
            "from sbv2bench.specs import MetricSpec\n"
            "def register(registry):\n"
            "    MetricSpec(id='half', target='half:half', reads='pixels', keys=('half',), higher_is_better=True)",
            "MetricSpec: reads: Input should be 'features', 'paired', 'scorer', ",
        ),
    ],
    ids=["import", "crash", "collision", "fields"],
)
def test_a_broken_plugin_takes_nothing_away_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, error: str, request: pytest.FixtureRequest
) -> None:
    module = f"broken_{request.node.callspec.id}"
    installed(tmp_path, monkeypatch, module)
    (tmp_path / "site" / f"{module}.py").write_text(body)
    registry = Registry.load()
    assert registry.model("sd21", "mini").sampler == "multi_step"
    assert "local/half" not in registry.models
    (plugin,) = registry.plugins
    assert plugin.error is not None
    assert error in plugin.error
    with pytest.raises(InputError, match="plugin example did not load"):
        registry.model("half", "mini")


def test_a_metric_of_an_unknown_extractor_is_named() -> None:
    registry = Registry.load()
    own = MetricSpec(id="own", target="own:own", reads="features", extractor="word-128", keys=("own",), higher_is_better=True)
    with pytest.raises(InputError, match="metric own: unknown extractor 'word-128', did you mean 'world-128'") as caught:
        registry.extractors_of([own])
    assert caught.value.fix == "sbv2bench list extractors"


def test_list_rows_have_the_contracts_keys(registry: Registry) -> None:
    for what in ("models", "suites", "metrics"):
        rows = listed(registry, what)
        assert rows
        assert all(list(row)[:6] == ["id", "family", "kind", "origin", "licence", "verified"] for row in rows)
    teacher = next(row for row in listed(registry, "models") if row["id"] == "mini/sd21")
    assert teacher["licence"] == "Apache-2.0"


@pytest.mark.ci
def test_a_plugins_metric_is_computed_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sbv2bench eval --model sd21 --metrics mine`, and the plugin's model with the suite's own."""
    import sbv2bench

    installed(tmp_path, monkeypatch, "sbv2bench_example")
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setenv("SBV2BENCH_HOME", str(tmp_path / "home"))
    mine = sbv2bench.evaluate("sd-turbo", "mini", metrics="mine", limit=20, device="cpu").metrics["colour_distance"]
    assert mine.value > 0 and mine.std_err is None
    assert (mine.label, mine.direction, mine.extractor) == ("colour distance-mini@20", "lower", "mean-colour")
    assert (mine.n_generated, mine.n_reference, len(mine.fingerprint)) == (20, 2000, 64)
    both = sbv2bench.evaluate("grey", "mini", metrics="fid,mine", limit=20, device="cpu").metrics
    assert list(both) == ["fid", "colour_distance"] and both["colour_distance"].value > mine.value
    every = sbv2bench.evaluate("grey", "mini", metrics="all", limit=20, device="cpu").metrics
    assert {"colour_distance", "clip_score"} <= {*every} and "votes" not in every


def test_a_catalog_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes(b"models: {a: \xff}")
    with pytest.raises(InputError, match=r"own\.yaml: cannot be read as UTF-8 text"):
        Registry.load(tmp_path / "own.yaml")
