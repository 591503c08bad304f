"""A static copy of the pages, for GitHub Pages or a file on disk: `make site`.

    python -m experiments.static_site [--to FOLDER]

The API serves the finished demo's log, and this program keeps its answers: the board of each of the
last hours, which the browser replays, the instances of the last one, the loop and the model card.
The champion's weights go along as arrays; ``network.js`` predicts with them, so that the sliders
answer without a server. Links to what a static site lacks become text.
"""

import argparse
import base64
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pandas as pd
from sqlalchemy import func, select
from torch import Tensor

from ontime.models.preprocessing import N_BINS, Z_CLIP
from ontime.models.serialization import TrainedModel
from ontime.problem import DECISION_TEXTS, PREDICTION_INTERVAL
from ontime.registry import model_registry
from ontime.settings import Settings
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import PREDICTIONS
from simulation.demo import running_api

HERE = Path(__file__).parent
N_FRAMES = 36
MAX_INSTANCES = 120  # pages; each needs an explanation
PAGES = {"/": "index.html", "/loop": "loop.html", "/loop/card": "card.html"}
STATIC = ("style.css", "pages.js", "icon.svg")
BANNER = (
    '<p class="recorded" role="note">A recording of a finished replay. The sliders of an instance '
    "ask the exported model, in this browser. The service itself runs with "
    "<code>make demo</code>.</p>"
)


def build(folder: Path, settings: Settings, n_frames: int = N_FRAMES) -> dict[str, int]:
    """Write the site; returns the number of frames, of instances and of bytes.

    Raises:
        RuntimeError: if no demo has been run.
    """
    log = PredictionLog(settings.prediction_db_url)
    log.migrate()
    clock: datetime | None = log.rows(select(func.max(PREDICTIONS.c.as_of).label("at")))[0]["at"]
    version = model_registry.resolve(settings, model_registry.CHAMPION)
    if clock is None or version is None:
        raise RuntimeError("the site shows a finished demo, and there is none: run `make demo`")
    client = httpx.Client(base_url=settings.api_url, headers=settings.client_headers, timeout=60)
    with running_api(settings), client as http:
        instance_ids = copy_pages(http, folder, clock, n_frames)
    model = model_registry.load(settings, version)
    recent = log.served(clock - timedelta(days=2), clock + PREDICTION_INTERVAL)
    write_model(folder, model, version, recent[recent.instance_id.isin(instance_ids)])
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"frames": n_frames, "instances": len(instance_ids), "bytes": size}


def copy_pages(http: httpx.Client, folder: Path, clock: datetime, n_frames: int) -> list[str]:
    """Write everything but the model; returns the ids of the instances that have a page."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "instances").mkdir(parents=True)
    (folder / "static").mkdir()
    moments = [clock - i * PREDICTION_INTERVAL for i in reversed(range(n_frames))]
    frames = [get(http, "/board", at=moment.isoformat()) for moment in moments]
    linked = list(dict.fromkeys(re.findall(r'href="(/instances/[^"]+)"', frames[-1])))
    links = PAGES | {path: f"instances/{file_name(path)}" for path in linked[:MAX_INSTANCES]}
    for path, name in links.items():
        is_instance = path not in PAGES
        scripts = ("model.js", "network.js") if is_instance else ("frames.js",) * (path == "/")
        page = rewritten(get(http, path), links, "../" * is_instance, scripts)
        (folder / name).write_text(page)
    for name in STATIC:
        (folder / "static" / name).write_text(get(http, f"/static/{name}"))
    rows = [re.sub(r"\n\s*", "\n", rewritten(frame, links)) for frame in frames]
    (folder / "frames.js").write_text(script_of(STATIC_SITE=True, FRAMES=rows))
    (folder / ".nojekyll").touch()
    return [unquote(path.removeprefix("/instances/")) for path in links if path not in PAGES]


def write_model(folder: Path, model: TrainedModel, version: str, rows: pd.DataFrame) -> None:
    """Write the network, and the inputs of the predictions that have a page."""
    values = {"MODEL": exported(model, version), "INPUTS": inputs(model, rows)}
    (folder / "model.js").write_text(script_of(STATIC_SITE=True, **values))
    shutil.copy(HERE / "network.js", folder / "network.js")


def get(http: httpx.Client, path: str, **parameters: str) -> str:
    return http.get(path, params=parameters or None).raise_for_status().text


def file_name(path: str) -> str:
    """A name that is a file on every system and needs no escape in a link."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", path.removeprefix("/instances/")) + ".html"


def rewritten(
    html: str, links: Mapping[str, str], up: str = "", scripts: Iterable[str] = ()
) -> str:
    """A page of the API as one of the site: relative links, its scripts, and what it is."""

    def link(match: re.Match[str]) -> str:
        before, target, after, text = match.groups()
        found = links.get(target.split("?")[0])
        if found is None:
            return f"<span>{text}</span>"
        return f'<a {before}href="{up}{found}"{after}>{text}</a>'

    html = re.sub(r'<a href="/(ask|system)"[^>]*>.*?</a>', "", html)
    html = re.sub(r'<nav class="moments" aria-label="Moments">.*?</nav>', "", html, flags=re.DOTALL)
    html = re.sub(r'<a ([^>]*?)href="(/[^"]*)"([^>]*)>(.*?)</a>', link, html, flags=re.DOTALL)
    html = re.sub(r'data-(live|events)="[^"]*"', r'data-\1=""', html)
    html = html.replace('"/static/', f'"{up}static/')
    extra = "".join(f'<script src="{up}{name}" defer></script>\n' for name in scripts)
    html = html.replace('<script src="', f'{extra}<script src="', 1)
    return html.replace("</header>", f"</header>\n{BANNER}", 1)


def script_of(**values: Any) -> str:
    """A script that sets globals: a page from disk may load a script, but not fetch a file."""
    return "".join(
        f"window.{name} = {json.dumps(value, allow_nan=False)};\n" for name, value in values.items()
    )


def exported(model: TrainedModel, version: str) -> dict[str, Any]:
    """The network as JSON, its arrays as little-endian float32 in base64."""
    network = model.network.eval()
    layers = [*network.hidden, network.output]
    return {
        "version": version,
        "threshold": model.metadata["threshold"],
        "decision_texts": [DECISION_TEXTS[False], DECISION_TEXTS[True]],
        "numeric": model.spec.numeric,
        "vocabularies": [model.vocabularies[name] for name in model.spec.categorical],
        "embedding": network.config.embedding,
        "n_bins": N_BINS,
        "z_clip": Z_CLIP,
        "encoder": {name: base64_of(t) for name, t in network.encoder.named_buffers()},
        "embeddings": [base64_of(t) for t in network.embeddings.parameters()],
        "layers": [{n: base64_of(t) for n, t in layer.named_parameters()} for layer in layers],
    }


def base64_of(tensor: Tensor) -> str:
    values = tensor.detach().cpu().numpy().astype("<f4")
    return base64.b64encode(values.tobytes()).decode()


def inputs(model: TrainedModel, rows: pd.DataFrame) -> dict[str, Any]:
    """Prediction id -> the numbers (null: missing) and the categories that the model saw."""
    numeric = rows[list(model.spec.numeric)].to_numpy(dtype=np.float64)
    categories = rows[list(model.spec.categorical)].astype(str).to_numpy().tolist()
    return {
        row: [none_for_nan(values), names]
        for row, values, names in zip(rows.prediction_id, numeric, categories, strict=True)
    }


def none_for_nan(values: Iterable[float]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=Path("var/site"))
    folder = parser.parse_args().to
    found = build(folder, Settings())
    print(
        f"{folder / 'index.html'}: {found['frames']} boards, {found['instances']} instances, "
        f"{found['bytes'] / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
