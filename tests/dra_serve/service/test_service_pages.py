"""The pages in a real browser, and the server with the demo mounted."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from .conftest import Server, running, serve_command

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="module")
def with_demo(pair: list[Path]) -> Iterator[Server]:
    command = [argument for argument in serve_command(*pair) if argument != "--no-ui"]
    with running(command) as server:
        yield server


def test_the_docs_are_drawn_from_openapi_and_ask_no_other_host(server: Server) -> None:
    requests, complaints = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{server.url}/docs")
        page.locator("summary", has_text="Attack one image").click()
        text = page.locator("details", has_text="Attack one image").inner_text()
        browser.close()
    assert f"curl -F image=@picture.png -F eps=8/255 -F steps=20 {server.url}/v1/attack" in text
    assert "integer, 1 to 200; default 20" in text
    assert requests == [f"{server.url}/docs", f"{server.url}/openapi.json"]
    assert complaints == []


def test_the_root_leads_to_the_demo(with_demo: Server) -> None:
    with with_demo.client() as http:
        root = http.get("/", follow_redirects=True)
        assert (root.status_code, root.url.path) == (200, "/ui/")
        assert http.get("/ui/nothing").status_code == 404
        assert http.get("/nothing").headers["Content-Type"] == "application/problem+json"


def test_an_open_page_does_not_keep_the_server_from_ending(with_demo: Server) -> None:
    with with_demo.client() as http:
        heartbeat = http.build_request("GET", "/ui/gradio_api/heartbeat/session")
        open_page = http.send(heartbeat, stream=True)
        assert open_page.status_code == 200
        assert with_demo.stop() == 0
        open_page.close()
    assert [line for line in with_demo.lines[4:] if not line.startswith("{")] == []
