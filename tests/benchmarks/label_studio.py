"""Label Studio with a pairwise project, opened where an annotator labels: for tests/benchmarks/key_to_pair.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page

CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Text name="left" value="$left"/>
  <Text name="right" value="$right"/>
  <Choices name="better" toName="prompt" required="true">
    <Choice value="Left" hotkey="1"/><Choice value="Right" hotkey="2"/>
  </Choices>
</View>"""
USER, PASSWORD, TOKEN = "ada@example.org", "not-a-secret-at-all", "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def label_studio_page(browser: Browser, command: Path, folder: Path, labels: int) -> Iterator[Page]:
    port = _free_port()
    options = {"internal-host": "127.0.0.1", "port": port, "data-dir": folder / "ls", "log-level": "ERROR"}
    options |= {"username": USER, "password": PASSWORD, "user-token": TOKEN}
    server = subprocess.Popen(
        [str(command), "start", *(f"--{name}={value}" for name, value in options.items()), "--no-browser"],
        env=os.environ | {"LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "COLLECT_ANALYTICS": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address)
        project = _project(address, labels + 10)
        page = context.new_page()
        page.goto(f"{address}/user/login/")
        page.locator("input[name=email]").fill(USER)
        page.locator("input[name=password]").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "login" not in url)
        page.goto(f"{address}/projects/{project}/data?labeling=1")
        page.get_by_text("answer to").first.wait_for(timeout=60_000)
        yield page
    finally:
        context.close()
        os.killpg(server.pid, 15)
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(address: str, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if httpx.get(f"{address}/health").is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    raise SystemExit("Label Studio did not start.")


def _project(address: str, pairs: int) -> int:
    client = httpx.Client(base_url=address, headers={"Authorization": f"Token {TOKEN}"}, timeout=60)
    made = client.post("/api/projects", json={"title": "pairs", "label_config": CONFIG}).raise_for_status().json()
    tasks = [
        {"data": {"prompt": f"Question {n}?", "left": f"First answer to {n}.", "right": f"Second answer to {n}."}}
        for n in range(1, pairs + 1)
    ]
    client.post(
        f"/api/projects/{made['id']}/import",
        content=json.dumps([task["data"] for task in tasks]),
        headers={"Content-Type": "application/json"},
    ).raise_for_status()
    number: int = made["id"]
    return number
