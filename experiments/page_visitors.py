"""Visitors who look at the pages of a running API, as load beside its predictions.

    python -m experiments.page_visitors URL [--visitors 8]

Each visitor opens the board, an instance of it, the loop and the system, and waits for a second
between two pages. The program runs until it is ended, and prints a line when every visitor has seen
its first page.
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from time import sleep

import httpx

from ontime.settings import ROOT

N_VISITORS = 8
PAUSE_S = 1.0
TOO_MANY = 429
READY = "every visitor has seen a page"


def visit(url: str, seen: threading.Barrier) -> None:
    """Look at one page after the other, for ever."""
    with httpx.Client(base_url=url, timeout=60) as http:
        instances: list[str] = []
        for i, path in enumerate(cycle(("/", "an instance", "/loop", "/system"))):
            if path == "an instance":
                if not instances:
                    continue
                path = instances[i % len(instances)]
            page = http.get(path)
            if page.status_code != TOO_MANY:  # of explanations at once: a limit of the API
                page.raise_for_status()
            if path == "/":
                instances = re.findall(r'href="(/instances/[^"]+)"', page.text)
            if i == 0:
                seen.wait()
            sleep(PAUSE_S)


@contextmanager
def visitors(url: str, n: int = N_VISITORS) -> Iterator[None]:
    """Visitors in a process of their own, from their first page to the end of the block.

    Raises:
        RuntimeError: if a page does not answer.
    """
    command = [sys.executable, "-m", "experiments.page_visitors", url, "--visitors", str(n)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline().strip() != READY:
                raise RuntimeError(f"visitors must see the pages of {url}, and did not")
            yield
            if process.poll() is not None:
                raise RuntimeError(f"a page of {url} must answer every visitor, and one did not")
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--visitors", type=int, default=N_VISITORS)
    arguments = parser.parse_args()
    seen = threading.Barrier(arguments.visitors + 1)
    for _ in range(arguments.visitors):
        visitor = threading.Thread(target=visit_or_end, args=(arguments.url, seen), daemon=True)
        visitor.start()
    seen.wait()
    print(READY, flush=True)
    threading.Event().wait()


def visit_or_end(url: str, seen: threading.Barrier) -> None:
    """A visitor; a page that fails ends the program."""
    try:
        visit(url, seen)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main()
