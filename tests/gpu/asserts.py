"""The tests marked gpu, run on the figures that were measured."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).parent


def run(out: Path) -> dict[str, Any]:
    """How many passed, failed and were skipped, and why each failed."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        options = ["-m", "gpu", "-n", "0", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", *options, str(HERE)]
        environment = os.environ | {"OUT": str(out)}
        done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
        if not report.is_file():
            return {"error": f"pytest ended with exit code {done.returncode}: {(done.stdout + done.stderr)[-400:]}"}
        cases = list(ElementTree.parse(report).iter("testcase"))
    wrong = {case.get("name"): fault.get("message", "")[:300] for case in cases for fault in case if fault.tag != "skipped"}
    skipped = sum(any(child.tag == "skipped" for child in case) for case in cases)
    found: dict[str, Any] = {"passed": len(cases) - len(wrong) - skipped, "failed": len(wrong), "skipped": skipped}
    return found | ({"error": "; ".join(f"{name}: {why}" for name, why in wrong.items())[:2000]} if wrong else {})
