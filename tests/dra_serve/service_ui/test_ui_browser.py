"""The page in a real browser against a real server: what a visitor does, and what they see.

Every test fails on an error in the console and on a request to any other host.
"""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from dra_serve.images import decode, encode_png
from dra_serve.service.answers import AttackRequest
from dra_serve.service.attacking import attack_models
from dra_serve.service.predicting import predict_pixels
from dra_serve.service.registry import Registry
from dra_serve.service.words import describe

from .conftest import noise

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
WAIT = 60_000  # ms: what a machine under load may need; nothing here takes a second on a quiet one
DESKTOP, TELEPHONE = (1280, 800), (390, 844)
OpenPage = Callable[..., Page]

CONTRASTS = """
selectors => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => channels(color).slice(0, 3)
    .map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = element => {
    for (; element; element = element.parentElement) {
      const [, , , alpha = 1] = channels(getComputedStyle(element).backgroundColor);
      if (alpha > 0) return getComputedStyle(element).backgroundColor;
    }
    return 'rgb(255, 255, 255)';
  };
  return Object.fromEntries(selectors.map(selector => {
    const element = document.querySelector(selector);
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(background(element))];
    return [selector, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  }));
}
"""

OUTSIDE = """
() => [...document.querySelectorAll('main *')]
  .filter(element => element.checkVisibility() && element.getBoundingClientRect().right > innerWidth + 1)
  .map(element => element.outerHTML.slice(0, 120))
"""

SMALL_TARGETS = """
() => [...document.querySelectorAll('button, a[href], input:not(label input), label:has(input)')]
  .filter(element => element.checkVisibility({opacityProperty: true}) && element.offsetParent)
  .filter(element => Math.round(element.getBoundingClientRect().height) < 40)
  .map(element => element.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def url(
    pair_folders: list[Path], slow_folder: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Yield where the demo is served, by a process of its own.

    At the end it must have logged nothing but requests, and kept no picture.
    """
    script = Path(__file__).with_name("serve_demo.py")
    command = [sys.executable, str(script), str(examples), *map(str, [*pair_folders, slow_folder])]
    uploads = tmp_path_factory.mktemp("uploads")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(uploads)}
    log = tmp_path_factory.mktemp("log") / "stderr"
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env) as process,
    ):
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            assert port, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
    assert [line for line in log.read_text().splitlines() if '"event": "request"' not in line] == []
    assert [path for path in uploads.rglob("*") if path.is_file() and path.stat().st_size] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=WAIT)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        browser.new_context().set_default_timeout(WAIT)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, url: str) -> Iterator[OpenPage]:
    """Yield open(size=DESKTOP, scheme="light"): the page of a new visitor."""
    complaints: list[str] = []
    pages: list[Page] = []

    def open_one(size: tuple[int, int] = DESKTOP, scheme: Literal["light", "dark"] = "light") -> Page:
        page = browser.contexts[0].new_page()  # one context: the scripts are loaded once
        pages.append(page)
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme=scheme)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.on(
            "request", lambda request: complaints.append(request.url) if is_outside(request.url) else None
        )
        page.goto(f"{url}/ui/")
        expect(page.locator(".card")).to_have_count(2)
        return page

    def is_outside(target: str) -> bool:
        return not target.startswith((url, "data:", "blob:"))

    yield open_one
    for page in pages:
        page.close()
    assert complaints == []


def attack(page: Page) -> str:
    """Press Attack and return the words of the verdict."""
    page.click("#attack")
    expect(page.locator("#message [data-kind=done]")).to_be_visible(timeout=30_000)
    expect(page.locator("#attack")).to_be_enabled()
    return page.inner_text("#message")


def begin_long_attack(page: Page) -> Locator:
    """Begin an attack of some 20 s on `slow` beside `tiny-dra`; return the card of `slow`."""
    page.click("#more button")
    for name in ("tiny-at", "slow"):
        page.locator("#models label", has_text=name).click()
    expect(card(page, "tiny-at")).to_have_count(0)
    expect(card(page, "slow")).to_be_visible()
    set_number(page, "#eps-linf", "0")  # the image stays as it is: never fooled, never over early
    set_number(page, "#steps", "100")
    set_number(page, "#restarts", "5")
    page.click("#attack")
    slow = card(page, "slow")
    expect(slow).to_have_attribute("data-state", "running")
    return slow


def card(page: Page, name: str) -> Locator:
    return page.locator(f'.card[data-model="{name}"]')


def pixels(image: Locator) -> np.ndarray:
    """Return what an <img> or a download link holds."""
    uri = image.get_attribute("src") or image.get_attribute("href") or ""
    return decode(base64.b64decode(uri.removeprefix("data:image/png;base64,")))


def upload(page: Page, file: Path) -> None:
    page.set_input_files("#upload input[type=file]", file)


def set_number(page: Page, selector: str, value: str) -> None:
    page.fill(f"{selector} input[type=number]", value)
    page.locator(f"{selector} input[type=number]").blur()


def test_a_visitor_picks_an_example_attacks_and_reads_both_results(
    open_page: OpenPage, registry: Registry
) -> None:
    page = open_page()
    page.get_by_role("button", name="Example: dog test 00002.").click()
    sturdy, fragile = card(page, "tiny-dra"), card(page, "tiny-at")
    expect(page.locator("#examples [aria-pressed=true]")).to_have_attribute("data-index", "1")
    expect(fragile).to_have_attribute("data-state", "ready")
    assert np.array_equal(pixels(fragile.locator("img").first), noise(1))

    words = attack(page)
    options = {"norm": "linf", "eps": "8/255", "steps": 20, "restarts": 1, "seed": 0}
    answer = attack_models(list(registry), noise(1), AttackRequest(options=options))
    assert words.replace("\xa0", " ").split("\n\n") == describe(answer)
    assert [result.success for result in answer.results] == [False, True]
    expect(sturdy.locator(".chip")).to_have_text("✓ held")
    expect(fragile.locator(".chip")).to_have_text(re.compile(r"✕ fooled at step \d+"))

    for name, shown in (("tiny-dra", sturdy), ("tiny-at", fragile)):
        adversarial = pixels(shown.locator("img").nth(1))
        assert np.abs(adversarial.astype(int) - noise(1)).max() == 8
        (verdict,) = predict_pixels(registry.get(name), [adversarial])
        caption = shown.locator("figcaption").nth(1).inner_text().replace("\xa0", " ")
        assert f"{verdict.label} {100 * verdict.score:.0f} %" in caption


def test_the_steps_are_shown_while_the_attack_runs(open_page: OpenPage) -> None:
    page = open_page()
    running = begin_long_attack(page)
    expect(page.locator("#message")).to_contain_text("Attacking tiny-dra and slow")
    expect(card(page, "tiny-dra")).to_have_attribute("data-state", "running")  # both at once
    expect(page.locator("#attack")).to_be_disabled()
    first = running.locator("polyline.own").get_attribute("points") or ""
    running.get_by_text(re.compile(r"step [1-9]\d+ of 500")).wait_for()
    later = running.locator("polyline.own").get_attribute("points") or ""
    assert later.startswith(first)
    assert len(later.split()) >= len(first.split()) >= 2
    assert len(later.split()) > 10  # the clean image and each step


def test_stop_ends_the_attack_and_judges_what_there_is(open_page: OpenPage) -> None:
    page = open_page()
    begin_long_attack(page)
    page.click("#stop")
    expect(page.locator("#message")).to_contain_text("Stopped.")
    expect(card(page, "slow")).to_have_attribute("data-state", "unfinished")
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator("#attack")).to_be_enabled()


def test_another_picture_ends_the_attack_and_takes_its_place(open_page: OpenPage) -> None:
    page = open_page()
    begin_long_attack(page)
    page.click("#examples button >> nth=2")
    expect(page.locator("#message")).to_contain_text("Press Attack")
    page.wait_for_timeout(500)  # a late step of the old attack would come now
    expect(page.locator('.card[data-state="ready"]')).to_have_count(2)
    assert np.array_equal(pixels(card(page, "tiny-dra").locator("img").first), noise(2))


def test_who_waits_is_told_and_gets_their_turn_when_the_other_leaves(open_page: OpenPage) -> None:
    one, two = open_page(), open_page()
    begin_long_attack(one)
    two.click("#attack")
    expect(two.locator("#message")).to_contain_text("Waiting for another visitor")
    one.close()
    expect(two.locator("#message")).to_contain_text("tiny-at was fooled")


def test_an_uploaded_png_arrives_bit_exact_and_so_does_the_adversarial_one_fed_back(
    open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page()
    (tmp_path / "mine.png").write_bytes(encode_png(noise(7)))
    upload(page, tmp_path / "mine.png")
    expect(page.locator("#current")).to_contain_text("mine.png, 32 × 32 pixels.")  # noqa: RUF001
    fragile = card(page, "tiny-at")
    assert np.array_equal(pixels(fragile.locator("img").first), noise(7))

    attack(page)
    adversarial = pixels(fragile.locator("img").nth(1))
    fooled_into = fragile.locator("figcaption").nth(1).inner_text().split()[1]
    with page.expect_download() as download:
        fragile.locator(".save").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert np.array_equal(decode(saved.read_bytes()), adversarial)

    upload(page, saved)
    expect(page.locator("#current")).to_contain_text(saved.name)
    assert np.array_equal(pixels(fragile.locator("img").first), adversarial)
    expect(fragile.locator("figcaption").first).to_contain_text(fooled_into)


def test_a_picture_of_another_size_is_resized_only_on_request(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    (tmp_path / "photo.png").write_bytes(encode_png(noise(8, 150, 200)))
    upload(page, tmp_path / "photo.png")
    expect(page.locator("#message")).to_contain_text("200 × 150 pixels; the models take 32 × 32")  # noqa: RUF001
    page.click("#attack")
    expect(page.locator("#message")).to_contain_text("the models take")
    page.click("#resize")
    expect(page.locator("#current")).to_contain_text("bicubic")
    expect(page.locator("#resize")).to_be_hidden()
    assert "withstood" in attack(page)


def test_a_text_named_png_is_a_sentence_and_the_page_goes_on(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    upload(page, tmp_path / "text.png")
    expect(page.locator("#message [data-kind=error]")).to_have_text(
        "image: no image we read; allowed: PNG, JPEG, WebP"
    )
    expect(page.locator(".card")).to_have_count(0)
    page.click("#examples button >> nth=0")
    assert "withstood" in attack(page)


def test_norm_radius_seed_and_models_reach_the_attack(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#norm label", has_text="L2").click()
    set_number(page, "#eps-l2", "0.25")
    set_number(page, "#steps", "5")
    page.click("#more button")
    page.locator("#models label", has_text="tiny-dra").click()
    expect(page.locator(".card")).to_have_count(1)
    assert "(l2, eps 0.25, 5 steps)" in attack(page)
    page.locator("#seed input").fill("-1")
    page.locator("#seed input").blur()
    page.click("#attack")
    expect(page.locator("#message [data-kind=error]")).to_contain_text(
        "seed: got -1; allowed: an integer from 0"
    )


def test_the_keyboard_is_enough(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#examples button").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#examples [aria-pressed=true]")).to_have_attribute("data-index", "1")
    page.locator("#attack").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#message").get_by_role("status")).to_contain_text("tiny-at was fooled")


def test_a_telephone_needs_no_sideways_scroll_and_no_small_taps(open_page: OpenPage) -> None:
    page = open_page(TELEPHONE)
    page.click("#more button")
    for _ in ("before", "after"):
        assert page.evaluate("document.documentElement.scrollWidth") == TELEPHONE[0]
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate(SMALL_TARGETS) == []
        attack(page)
    expect(page.locator("#message")).to_be_in_viewport()  # the page has scrolled to the verdict


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(open_page: OpenPage, scheme: str) -> None:
    page = open_page(scheme=scheme)
    attack(page)
    texts = [
        "#intro h1",
        "#intro p",
        "#message p",
        ".card h2",
        ".role",
        ".record",
        "#attack",
        ".save",
        ".bars .number",
    ]
    states = ['[data-state="fooled"] .chip', '[data-state="held"] .chip', "tr.now .tag", "tr.clean .tag"]
    controls = ["#controls h2", "#norm label", "#steps input", "#current p", "#more button span"]
    contrasts = page.evaluate(CONTRASTS, texts + states + controls)
    assert {selector: ratio for selector, ratio in contrasts.items() if ratio < 4.5} == {}
