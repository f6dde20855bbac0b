"""Result files of schema 1, read as schema 2: their values as they are, and each metric's fingerprint from what they state.

Such a file is never written over. Version 1 had one protocol a suite, with extractors by role; a metric's own part of it is taken
out here. What it does not state is null.
"""

from __future__ import annotations

from typing import Any

from sbv2bench.errors import IntegrityError
from sbv2bench.specs import ExtractorSpec, fingerprint

Content = dict[str, Any]

SUITE_OF_1 = "suite_fingerprint_1"  # in the provenance of what was read: the suite's fingerprint in the file
# Key -> (metric, its extractor's role, parameters, whether it compares with a reference).
_METRICS: dict[str, tuple[str, str, Content, bool]] = {
    "fid": ("fid", "features", {}, True),
    "fid_infinity": ("fid-infinity", "features", {}, True),
    **{key: ("pr", "pr", {"k": 3}, True) for key in ("precision", "recall", "density", "coverage")},
    **{key: ("pr-paper", "pr_paper", {"k": 3}, True) for key in ("precision_paper", "recall_paper")},
    "kid": ("kid", "features", {}, True),
    "clip_score": ("clip", "clip", {}, False),
    "hps": ("hps", "hps", {}, False),
    "hps_v21": ("hps-v21", "hps_v21", {}, False),
    "attribute_accuracy": ("attributes", "attributes", {}, False),
    "latency_ms": ("latency", "", {}, False),
}
_FIELDS = {"schema_version", "status", "model", "suite", "metrics", "prompt_values", "resumed_images", "seconds", "provenance"}
_PAIRED = ("clip", "hps", "hps_v21")
_ATTRIBUTES = {"id": "world-attributes", "kind": "world_attributes"}  # version 1 read them off the features' network


def latency_of_1(content: Content) -> Content:
    """A latency result of schema 1 as one of schema 2: `compiled` names the parts that were."""
    return {**content, "schema_version": 2, "compiled": ["denoiser"] if content.get("compiled") else []}


def eval_of_1(content: Content, where: str) -> Content:
    """An evaluation's result of schema 1 as one of schema 2. where: for messages.

    Raises IntegrityError where the suite's fingerprint is not that of its protocol, or a part is not there.
    """
    try:
        return _eval_of_1(content, where)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise IntegrityError(f"result file {where}: not a whole result of schema 1 ({what})", "copy the file again") from error


def _eval_of_1(content: Content, where: str) -> Content:
    unknown = sorted(content.keys() - _FIELDS)
    if unknown:
        raise ValueError(f"{unknown[0]} is none of its fields")
    suite, protocol, made = content["suite"], content["suite"]["protocol"], content.get("provenance") or {}
    declared, again = protocol["suite"], f"sbv2bench eval --model {content['model']['id']} --suite {suite['id']}"
    if fingerprint(protocol) != suite["fingerprint"]:
        raise IntegrityError(f"{where}: suite.fingerprint is not that of suite.protocol, so the file was edited", again)
    asked = declared.get("num_generated", suite["num_generated"])
    if asked != suite["num_generated"]:
        raise IntegrityError(f"{where}: suite.num_generated is {suite['num_generated']}, its protocol says {asked}", again)
    values = content.get("prompt_values") or {"metrics": ()}
    protocols, metrics = {}, {}
    for key, value in content["metrics"].items():
        own = _protocol_of(key, protocol, suite)
        digest = fingerprint(own)
        protocols[digest] = own
        metrics[key] = {**value, "fingerprint": digest}
        if own["extractor"] is not None:
            metrics[key]["extractor"] = own["extractor"]["id"]
        if key in values["metrics"]:
            metrics[key]["prompt_values"] = values["sha256"]
    sizes = made.get("block_sizes") or [suite["block_size"]]
    seen = suite.get("reference_fingerprint")
    return {
        "schema_version": 2,
        "kind": "eval",
        "status": content["status"],
        "model": content["model"],
        "forward_passes": None,
        "suite": {
            **{name: suite[name] for name in ("id", "version", "prompts_sha256", "num_generated", "num_reference", "seeds")},
            "reference": None if seen is None else {"fingerprint": seen, **_reference(protocol)},
            "images_per_prompt": 1,
            "preparation": declared.get("preparation"),
            "block_sizes": sizes,
        },
        "conditions": {
            "dtype": made.get("dtype"),
            "device": str(made["device"]).partition(":")[0] if made.get("device") else None,
            "libraries": {name: version for name, version in (made.get("libraries") or {}).items() if name != "numpy"},
        },
        "metrics": metrics,
        "resumed_images": content.get("resumed_images", 0),
        "seconds": content.get("seconds") or {},
        "provenance": {**made, "suite": declared, "protocols": protocols, SUITE_OF_1: suite["fingerprint"]},
    }


def _protocol_of(key: str, protocol: Content, suite: Content) -> Content:
    """What `SuiteSpec.metric_protocol` says of a metric, from the protocol of a whole suite."""
    declared = protocol["suite"]
    if key not in _METRICS:  # a plugin's: all that is known of its protocol is that of the suite
        return {"metric": {"id": key}, "extractor": None, "suite": suite["fingerprint"], "num_generated": suite["num_generated"]}
    name, role, parameters, compared = _METRICS[key]
    extractor = _extractor(role, protocol.get("extractors") or {})
    return {
        "metric": {"id": name, "version": 1, "parameters": parameters},
        "extractor": extractor,
        "preparation": None if extractor is None else declared.get("preparation"),
        "prompts_sha256": protocol["prompts_sha256"],
        "num_generated": suite["num_generated"],
        "images_per_prompt": 1,
        "reference": _reference(protocol) if compared else None,
        "num_reference": declared["num_reference"] if compared else None,
    }


def _reference(protocol: Content) -> Content:
    declared = protocol["suite"]
    if declared.get("reference") is None:
        return {"rendered": declared.get("rendered") or declared["prompts"]}
    return {**declared["reference"], "content_sha256": protocol.get("reference_sha256")}


def _extractor(role: str, extractors: Content) -> Content | None:
    """The extractor of a role, as it is declared now; without one of its own, precision and recall had the features'."""
    if not role:
        return None
    found: Content = extractors[role if role in extractors else "features"]
    renamed = {"preparation" if name == "preprocessing" else name: value for name, value in found.items()}
    gives = {"attributes": "attributes"}.get(role, "paired" if role in _PAIRED else "features")
    return ExtractorSpec.model_validate({**renamed, "gives": gives, **(_ATTRIBUTES if role == "attributes" else {})}).protocol()
