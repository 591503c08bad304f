"""The pictures of the pages in docs/images, from the finished demo: `make pictures`.

Chromium opens the API's pages. The moving pictures are the board at each hour of the demo's last
day and the loop at the end of each week, as GIFs of few colours: GitHub plays them everywhere.
"""

import json
import shutil
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import func, select

from experiments import loop_picture, tool_pictures
from ontime.problem import PREDICTION_INTERVAL
from ontime.settings import ROOT, Settings
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import OUTCOMES, PREDICTIONS
from simulation.demo import running_api

FOLDER = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, PHONE = {"width": 1240, "height": 800}, {"width": 390, "height": 800}
N_FRAMES, FRAME_MS, LOOP_FRAME_MS, LAST_FRAME_MS = 14, 900, 1100, 4000
FRAME_WIDTH = 800
COLOURS, BACKGROUNDS = 96, 32
DAY = timedelta(days=1)


def take(url: str, log: PredictionLog, browser: Browser) -> None:
    """Write all pictures."""
    instance, clock = interesting(log)
    page = f"/instances/{quote(instance)}"
    views = {
        "board": ("/", "light", WIDE),
        "board-dark": ("/", "dark", WIDE),
        "board-phone": ("/", "light", PHONE),
        "instance": (page, "light", WIDE | {"height": 1180}),
        "instance-dark": (page, "dark", WIDE | {"height": 1180}),
        "loop": ("/loop", "light", WIDE | {"height": 1000}),
        "loop-dark": ("/loop", "dark", WIDE | {"height": 1000}),
    }
    for name, (path, scheme, size) in views.items():
        save(still(browser, url + path, scheme, size), FOLDER / f"page-{name}.png")
    moments = [clock - i * PREDICTION_INTERVAL for i in reversed(range(N_FRAMES))]
    addresses = [f"{url}/?at={quote(moment.isoformat())}" for moment in moments]
    boards = [small(still(browser, address, "dark", WIDE)) for address in addresses]
    save_moving(boards, FRAME_MS, FOLDER / "board.gif")


def save_moving(frames: Iterable[Image.Image], frame_ms: int, target: Path) -> None:
    """Write a GIF; its last frame stays for some seconds."""
    pictures = list(frames)
    palette = palette_of(pictures[-1])
    first, *rest = [
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    ]
    durations = [frame_ms] * len(rest) + [LAST_FRAME_MS]
    first.save(target, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e3:.0f} KB")


def interesting(log: PredictionLog) -> tuple[str, datetime]:
    """Of the last day's known outcomes, the instance of highest probability; and the clock.

    Raises:
        RuntimeError: if no demo has been run.
    """
    clock: datetime | None = log.rows(select(func.max(PREDICTIONS.c.as_of).label("at")))[0]["at"]
    if clock is None:
        raise RuntimeError("the pictures show a finished demo, and there is none: run `make demo`")
    known = PREDICTIONS.c.instance_id == OUTCOMES.c.instance_id
    query = select(PREDICTIONS.c.instance_id).join_from(PREDICTIONS, OUTCOMES, known)
    recent = query.where(PREDICTIONS.c.as_of > clock - DAY).order_by(
        OUTCOMES.c.label.desc(), PREDICTIONS.c.probability.desc()
    )
    return log.rows(recent.limit(1))[0]["instance_id"], clock


def still(browser: Browser, address: str, scheme: Any, size: Any) -> Image.Image:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_load_state()
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return picture


def small(picture: Image.Image) -> Image.Image:
    height = round(picture.height * FRAME_WIDTH / picture.width)
    return picture.resize((FRAME_WIDTH, height), Image.Resampling.LANCZOS)


def palette_of(picture: Image.Image) -> Image.Image:
    """Averaged colours for the edges of letters, saturated ones, and the exact backgrounds."""
    colours: list[int] = []
    for method in (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE):
        colours += (picture.quantize(COLOURS, method=method).getpalette() or [])[: 3 * COLOURS]
    pixels, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
    colours += pixels[np.argsort(-counts)[:BACKGROUNDS]].ravel().tolist()
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


def save(picture: Image.Image, target: Path) -> None:
    picture.save(target, optimize=True)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e3:.0f} KB")


def main() -> None:
    settings = Settings()
    log = PredictionLog(settings.prediction_db_url)
    log.migrate()
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        sys.exit(f"the pictures need a browser, one of {', '.join(BROWSERS)}")
    with running_api(settings), sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        take(settings.api_url, log, browser)
        report = json.loads((settings.reports_dir / "demo.json").read_text())
        save_moving(loop_picture.frames(report), LOOP_FRAME_MS, FOLDER / "loop.gif")
        tool_pictures.take(settings, browser, FOLDER)
        browser.close()


if __name__ == "__main__":
    main()
