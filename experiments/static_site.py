"""A static copy of the pages, for GitHub Pages or a file on disk: `make site`.

    python -m experiments.static_site [--to FOLDER]

The API serves the finished demo's log, and this program keeps its answers: the board of each of the
last hours, which the browser replays, the instances of the last one, the loop and the model card,
and the System page at the end of the replay. The champion's weights go along as arrays;
``network.js`` predicts with them, so that the sliders answer without a server. The Ask page has
sliders for every recorded instance: for any other one the site lacks the feature store. Links to
what a static site lacks become text.
"""

import argparse
import base64
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pandas as pd
from sqlalchemy import func, select
from torch import Tensor, nn

from ontime.models.preprocessing import N_BINS, Z_CLIP
from ontime.models.serialization import TrainedModel
from ontime.problem import DECISION_TEXTS, INSTANCES, PREDICTION_INTERVAL
from ontime.registry import model_registry
from ontime.settings import Settings
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import PREDICTIONS
from simulation.demo import running_api
from simulation.progress import system_page_file

HERE = Path(__file__).parent
N_FRAMES = 36
MAX_INSTANCES = 120  # pages; each needs an explanation
PAGES = {
    "/": "index.html",
    "/ask": "ask.html",
    "/loop": "loop.html",
    "/loop/card": "card.html",
    "/system": "system.html",
}
SCRIPTS = {"/": ("frames.js",), "/ask": ("model.js", "recorded.js", "network.js")}
INSTANCE_SCRIPTS = ("model.js", "network.js")
STATIC = ("style.css", "pages.js", "icon.svg")
BANNER = (
    '<p class="recorded" role="note">A recording of a finished replay. The sliders ask the '
    "exported model, in this browser. The service itself runs with <code>make demo</code>.</p>"
)
ASK = """\
<h1>Ask about a recorded one</h1>
<p class="lead">The service answers for any of the {instances}. This copy has no feature store, \
only what was known of the {n} on its last board: choose one and change its inputs, and the \
exported model answers in this browser.</p>
<div class="card">
<div class="field"><label for="recorded">Recorded {instances}</label>
<select id="recorded" autocomplete="off">{options}</select></div>
<p class="field actions"><a id="recorded-page" href="{page}">Prediction, reasons, outcome</a></p>
</div>
{sliders}
"""


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
        system = system_page_file(settings)
        instance_ids = copy_pages(
            http, folder, clock, n_frames, system.read_text() if system.exists() else None
        )
    model = model_registry.load(settings, version)
    recent = log.served(clock - timedelta(days=2), clock + PREDICTION_INTERVAL)
    write_model(folder, model, version, recent[recent.instance_id.isin(instance_ids)])
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"frames": n_frames, "instances": len(instance_ids), "bytes": size}


def copy_pages(
    http: httpx.Client, folder: Path, clock: datetime, n_frames: int, system: str | None
) -> list[str]:
    """Write everything but the model; returns the ids of the instances that have a page.

    Args:
        system: the System page at the end of the replay; without it the site has none.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "instances").mkdir(parents=True)
    (folder / "static").mkdir()
    moments = [clock - i * PREDICTION_INTERVAL for i in reversed(range(n_frames))]
    frames = [get(http, "/board", at=moment.isoformat()) for moment in moments]
    linked = list(dict.fromkeys(re.findall(r'href="(/instances/[^"]+)"', frames[-1])))
    instances = {path: f"instances/{file_name(path)}" for path in linked[:MAX_INSTANCES]}
    pages = {path: get(http, path) for path in (*PAGES, *instances)}
    recorded = recorded_instances({name: pages[path] for path, name in instances.items()})
    pages["/ask"] = ask_page(pages["/ask"], recorded, pages[next(iter(instances))])
    if system is None:
        del pages["/system"]
    else:
        pages["/system"] = system
    links = {path: name for path, name in (PAGES | instances).items() if path in pages}
    for path, name in links.items():
        is_instance = path in instances
        scripts = INSTANCE_SCRIPTS if is_instance else SCRIPTS.get(path, ())
        (folder / name).write_text(rewritten(pages[path], links, "../" * is_instance, scripts))
    for name in STATIC:
        (folder / "static" / name).write_text(get(http, f"/static/{name}"))
    rows = [re.sub(r"\n\s*", "\n", rewritten(frame, links)) for frame in frames]
    (folder / "frames.js").write_text(script_of(STATIC_SITE=True, FRAMES=rows))
    (folder / "recorded.js").write_text(script_of(RECORDED=recorded))
    (folder / ".nojekyll").touch()
    return [unquote(path.removeprefix("/instances/")) for path in instances]


def recorded_instances(pages: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Prediction id -> title, page, and the changes of each scenario, of pages by their name."""
    found = {}
    for name, html in pages.items():
        (prediction_id,) = re.findall(r'data-prediction="([^"]+)"', html)
        (title,) = re.findall(r"<h1>(.*?)</h1>", html)
        changes = [unescape(text) for text in re.findall(r'data-changes="([^"]*)"', html)]
        found[prediction_id] = {"title": unescape(title), "page": name, "changes": changes}
    return found


def ask_page(page: str, recorded: Mapping[str, Any], instance_page: str) -> str:
    """The Ask page with a choice of recorded instances, and the sliders of the first one's page."""
    (sliders,) = re.findall(
        r'<section aria-labelledby="what-if".*?</section>', instance_page, flags=re.DOTALL
    )
    options = "".join(
        f'<option value="{escape(name)}">{escape(each["title"])}</option>'
        for name, each in recorded.items()
    )
    first = next(iter(recorded.values()))
    main = ASK.format(
        instances=INSTANCES, n=len(recorded), options=options, page=first["page"], sliders=sliders
    )
    before, after = page.split('<main id="main" tabindex="-1">')[0], page.split("</main>")[1]
    return f'{before}<main id="main" tabindex="-1">\n{main}</main>{after}'


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

    absent = "|".join(set(PAGES) - set(links)) or "^"
    html = re.sub(rf'<a href="({absent})"[^>]*>.*?</a>', "", html)
    html = re.sub(r'<nav class="moments" aria-label="Moments">.*?</nav>', "", html, flags=re.DOTALL)
    html = re.sub(r'<a ([^>]*?)href="(/[^"]*)"([^>]*)>(.*?)</a>', link, html, flags=re.DOTALL)
    html = re.sub(r' data-every="[^"]*"', "", html)
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
        "layers": [parameters(layer) for layer in layers],
        "queries": parameters(network.queries) if network.sequences else None,
        "n_queries": network.config.queries,
        "event_width": network.config.event_width,
        "sequences": [
            {
                "events": events,
                "width": width,
                "event": parameters(network.attention.get_submodule(f"{name}.event")),
                "residual": parameters(network.attention.get_submodule(f"{name}.residual")),
            }
            | parameters(network.attention.get_submodule(name), recurse=False)
            for name, (events, width) in network.sequences.items()
        ],
    }


def parameters(module: nn.Module, recurse: bool = True) -> dict[str, str]:
    return {name: base64_of(t) for name, t in module.named_parameters(recurse=recurse)}


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
