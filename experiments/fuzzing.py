"""Requests that schemathesis generates from the API's OpenAPI document."""

import re
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from experiments.malice import Target
from ontime.settings import ROOT


def generated_requests(
    target: Target, examples: int, at_least: int, folder: Path, log: Path
) -> dict[str, Any]:
    """Rounds of schemathesis with all of its checks, each with a seed of its own.

    The number of requests of a round follows from what schemathesis finds interesting; another
    round starts as long as they are too few and nothing was found. `log` has the output.
    """
    log.write_text("")
    found: dict[str, Any] = {"required": at_least, "requests": 0, "rounds": 0, "failures": []}
    started = monotonic()
    while True:
        found["rounds"] += 1
        done = _run_schemathesis(target, examples, found["rounds"], folder)
        with log.open("a") as file:
            file.write(done.stdout + done.stderr)
        generated = re.search(r"([\d,]+) generated", done.stdout)
        n = int(generated[1].replace(",", "")) if generated else 0
        found["requests"] += n
        found["failures"] += re.findall(r"❌ (ST\d+ .+)", done.stdout)
        found |= {"exit_status": done.returncode, "seconds": round(monotonic() - started)}
        print(f"  {found}", flush=True)
        if done.returncode != 0 or n == 0 or found["requests"] >= at_least:
            return found


def _run_schemathesis(
    target: Target, examples: int, seed: int, folder: Path
) -> "subprocess.CompletedProcess[str]":
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "--config-file", str(ROOT / "experiments/schemathesis.toml"),
        "run", f"{target.url}/openapi.json",
        "--header", f"Authorization: Bearer {target.key}",
        "--checks", "all", "--max-examples", str(examples), "--continue-on-failure",
        "--seed", str(seed), "--no-color", "--suppress-health-check", "all",
        "--request-timeout", "30",
    ]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
