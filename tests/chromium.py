"""Chromium without a window, as the tests of the site use it: found or fetched, cut off from the network, watched.

The fixtures `browser` and `page` stand in conftest.py. Playwright is imported where it is first used, so that the tests
without a browser start as fast as before.
"""

import functools
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

NAMES = ["chromium", "chromium-browser", "google-chrome", "chrome"]
FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # The pages must do without the network, even on a machine that has one.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
]
LOCAL = ("file:", "data:", "blob:", "about:", "http://localhost:")


@contextmanager
def started():
    """A browser for as long as the `with` block lasts; where there is none to be had, the test is skipped."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        try:
            yield browser
        finally:
            browser.close()


def launch(chromium):
    """Of the environment variable CHROMIUM, which must start; of the PATH; or Playwright's own, fetched at need."""
    from playwright.sync_api import Error

    flags = FLAGS + ["--no-sandbox"] * (os.geteuid() == 0)  # in a container Chromium runs as root
    if named := os.environ.get("CHROMIUM"):
        return chromium.launch(executable_path=named, args=flags)
    installed = [path for name in NAMES if (path := shutil.which(name))]
    for path in [*installed, None]:  # None stands for Playwright's own
        try:
            return chromium.launch(executable_path=path, args=flags)
        except Error:
            continue
    fetch()
    try:
        return chromium.launch(args=flags)
    except Error as error:
        pytest.skip(f"no browser: install Chromium, or name one in the environment variable CHROMIUM ({error})")


@functools.cache
def fetch():
    """Let Playwright fetch its own browser, once; without a network this changes nothing."""
    command = [sys.executable, "-m", "playwright", "install", "chromium", "--only-shell"]
    try:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        pass


def watch(page):
    """A list that fills with what goes wrong in `page`: console errors, warnings, exceptions, requests to outside."""
    complaints = []

    def on_console(message):
        if message.type in ("error", "warning"):
            complaints.append(f"console {message.type}: {message.text}")

    def on_request(request):
        if not request.url.startswith(LOCAL):
            complaints.append(f"outside request: {request.url}")

    def on_failure(request):
        if request.failure != "net::ERR_ABORTED":  # cut off because the test went on to another page
            complaints.append(f"failed request: {request.url[:200]} ({request.failure})")

    def on_response(response):
        if response.status >= 400:
            complaints.append(f"status {response.status}: {response.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    page.on("request", on_request)
    page.on("requestfailed", on_failure)
    page.on("response", on_response)
    return complaints


@functools.cache
def axe_script():
    from axe_playwright_python.base import AXE_SCRIPT

    return AXE_SCRIPT


# What axe-core tests of colours; of all its rules these alone depend on the colour scheme.
COLOURS = ("color-contrast", "link-in-text-block")


def violations(page, *rules):
    """What axe-core finds wrong in `page`, one line for each element; `rules` names the rules to try, all by default.

    axe takes a time that grows faster than the number of elements, and most of them are the tokens of code. So one
    token of each kind stands for all that look like it, and the first words of a block for its text.
    """
    page.evaluate(
        """() => {
            const still = document.createElement("style");  // a colour on its way to another would be neither
            still.textContent = "*, ::before, ::after { transition: none !important }";
            document.head.append(still);
            const seen = new Set();
            for (const token of document.querySelectorAll(":is(pre, code, dt) span:not(:has(*), [id])")) {
                const look = getComputedStyle(token), block = token.closest("pre, code, dt");
                const kind = [token.className, look.color, look.backgroundColor, look.fontSize, block.className,
                              block.parentElement.className, getComputedStyle(block).backgroundColor].join();
                if (seen.has(kind)) token.replaceWith(...(block.localName === "pre" ? [] : token.childNodes));
                seen.add(kind);
            }
            for (const block of document.querySelectorAll("pre"))
                for (const node of block.childNodes)
                    if (node.nodeType === Node.TEXT_NODE) node.data = node.data.trim().slice(0, 20) + "\\n";
        }"""
    )
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe_script())
    # To load style sheets a second time (preload) is not allowed to a page from a folder; only a rule needs it that is
    # experimental and off.
    options = {"resultTypes": ["violations"], "preload": False}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    found = page.evaluate("options => axe.run(options).then(results => results.violations)", options)
    return [
        f"{rule['id']} ({rule['impact']}): {' '.join(map(str, node['target']))}: "
        + node["failureSummary"].splitlines()[-1].strip()
        for rule in found
        for node in rule["nodes"]
    ]


def unreadable_figures(page):
    """Of the figures in the article: images that may be dark on dark, and text in SVG too faint on what is behind it.

    An image is taken to be drawn on white, so white must be behind it, or it must be inverted. axe leaves out SVG.
    """
    return page.evaluate(
        """() => {
            const rgba = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number).concat(1).slice(0, 4);
            const luminance = text => rgba(text).slice(0, 3).map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            const paints = text => text !== "none" && rgba(text)[3] > 0.5;
            const behind = box => {
                for (; box; box = box.parentElement) {
                    const colour = getComputedStyle(box).backgroundColor;
                    if (paints(colour)) return colour;
                }
                return "rgb(255, 255, 255)";
            };
            const found = [];
            for (const image of document.querySelectorAll("article img")) {
                if (!image.checkVisibility() || getComputedStyle(image).filter.includes("invert")) continue;
                if (luminance(behind(image)) < 0.8) found.push(`an image on dark: ${image.getAttribute("src")}`);
            }
            for (const text of document.querySelectorAll("article svg text")) {
                if (!text.checkVisibility() || !text.textContent.trim()) continue;
                text.scrollIntoView({block: "center", inline: "center", behavior: "instant"});
                const box = text.getBoundingClientRect();
                const stack = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
                const shape = stack.find(it => it instanceof SVGGeometryElement && paints(getComputedStyle(it).fill));
                const ground = shape ? getComputedStyle(shape).fill : behind(text.closest("svg"));
                const ratio = contrast(luminance(getComputedStyle(text).fill), luminance(ground));
                if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(1)} in a figure: ${text.textContent.trim()}`);
            }
            return found;
        }"""
    )


def uncopied(page):
    """How many blocks of code, outputs aside, have no button to copy them, if any."""
    return page.evaluate(
        """() => {
            const bare = [...document.querySelectorAll(
                "article div[class*='highlight-']:not(.output) > div.highlight > pre"
            )].filter(
                block => !block.parentElement.querySelector("button.copybtn")
            );
            return bare.length ? [`${bare.length} blocks of code without a copy button`] : [];
        }"""
    )


def too_wide(page):
    """The elements that make the document scroll sideways, if it does."""
    return page.evaluate(
        """() => {
            const root = document.documentElement, width = root.clientWidth;
            if (root.scrollWidth <= width) return [];
            const clipped = element => {
                for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
                    if (getComputedStyle(box).overflowX !== "visible") return true;
                return false;
            };
            const name = element => [element.localName, ...element.classList].join(".");
            const wide = [...document.body.querySelectorAll("*")].filter(
                element => element.getBoundingClientRect().right > width + 0.5 && !clipped(element)
            );
            return [`${root.scrollWidth} px wide, not ${width}`, ...wide.map(name).slice(0, 4)];
        }"""
    )
