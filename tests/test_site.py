"""The built site, as a reader meets it in a browser: from a folder and from a server, wide and narrow, light and dark.

What can be read off the files (links, headings, order) is read off them; the rest is tried in headless Chromium. A test
that goes through all pages collects what it finds, page by page, so that one run shows all that is wrong.
"""

import json
import os
import re
import urllib.parse
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import chromium
import pytest
from repository import ROOT

PARTS = 12  # tests that share the pages between them, so that two workers can share the tests
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}
COPIED = "nbs/05_attention"  # code, folded cells and questions with answers
# Tried with the lists of pages and headings beside them, which look alike on all pages and cost axe most of its time.
WHOLE = ["index", "search", "deviations", "nbs/index", COPIED, "nbs/api/attention", "nbs/exercises/01_gelu"]
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server(site):
    """The address of a server of the site, on this machine alone."""
    handler = lambda *arguments: Quiet(*arguments, directory=site)  # noqa: E731
    with ThreadingHTTPServer(("localhost", 0), handler) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://localhost:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(params=["folder", "server"])
def root(request, site):
    """Where the site is opened from."""
    return site.as_uri() if request.param == "folder" else request.getfixturevalue("server")


def pages(site, part=None):
    """The addresses of all pages within the site, or of one part of them."""
    every = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if "_static" not in path.parts)
    assert len(every) > 100
    return every if part is None else every[part::PARTS]


def report(findings):
    """Fail with all that was found; `findings` maps a page to lines."""
    lines = [f"{page}: {line}" for page, found in findings.items() for line in found]
    if lines:
        pytest.fail("\n".join([f"{len(lines)} findings", *lines]), pytrace=False)


# What can be read off the files.


class Page(HTMLParser):
    """Of one page: its ids, the addresses that it refers to, its headings without an anchor, its neighbours."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.addresses, self.bare_headings, self.neighbours = [], [], [], {}
        self.open, self.heading = [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        classes = (values.get("class") or "").split()
        if "id" in values:
            self.ids.append(values["id"])
        self.addresses += [values[key] for key in ("href", "src", "poster", "data") if values.get(key) is not None]
        for candidate in (values.get("srcset") or "").split(", "):
            self.addresses += candidate.split()[:1]
        if tag not in VOID:
            self.open.append((tag, "article" in (tag, values.get("role")), values.get("id")))
        if re.fullmatch("h[1-6]", tag) and any(article for _, article, _ in self.open):
            self.heading = [tag, False]
        if self.heading and "headerlink" in classes and values.get("href", "").startswith("#"):
            self.heading[1] = values["href"][1:] in [identity for _, _, identity in self.open]
        for neighbour in ("prev-page", "next-page"):
            if neighbour in classes:
                self.neighbours[neighbour] = values["href"]

    def handle_endtag(self, tag):
        if tag in [name for name, _, _ in self.open]:
            while self.open.pop()[0] != tag:
                pass
        if self.heading and tag == self.heading[0]:
            if not self.heading[1]:
                self.bare_headings.append(f"{tag} without an anchor, line {self.getpos()[0]}")
            self.heading = None


def dead_links(parsed, site, repository):
    """For each page the links that lead nowhere; an address in the `repository` on GitHub must be a file of it here."""
    dead = {}
    for name, page in parsed.items():
        for address in sorted(set(page.addresses)):
            url = urllib.parse.urlsplit(address)
            path, fragment = urllib.parse.unquote(url.path), urllib.parse.unquote(url.fragment)
            if url.scheme or url.netloc:
                within = re.search(rf"/{re.escape(repository)}/(?:blob|edit|raw|tree)/main/(.+)", path)
                ok = url.scheme in ("https", "data", "mailto") and (not within or (ROOT / within[1]).exists())
            else:
                target = (site / name).parent / path if path else site / name
                ok = target.is_file() and target.resolve().is_relative_to(site.resolve())
                if ok and fragment and target.suffix == ".html":
                    other = target.resolve().relative_to(site.resolve()).as_posix()
                    ok = fragment.partition(";")[0] in parsed[other].ids
            if not ok:
                dead.setdefault(name, []).append(f"dead link {address}")
    return dead


@pytest.fixture(scope="module")
def parsed(site):
    found = {}
    for name in pages(site):
        text = (site / name).read_text(encoding="utf-8")
        found[name] = Page(text)
        if name.startswith("explorer/"):  # which opens the tensor that the address names, before a semicolon
            found[name].ids += re.findall(r'{"name": "([^"]+)"', text)
    return found


def test_no_link_is_dead(parsed, site):
    report(dead_links(parsed, site, "minibert/minibert"))


def test_every_heading_has_an_anchor(parsed):
    """But for listings that Sphinx makes, which have no sections, and explorers, whose addresses are their tensors'."""
    listings = ("_modules/", "genindex", "py-modindex", "search", "explorer/")
    report({name: page.bare_headings for name, page in parsed.items() if not name.startswith(listings)})


def test_no_id_is_given_twice(parsed):
    report({name: sorted({i for i in page.ids if page.ids.count(i) > 1}) for name, page in parsed.items()})


def test_previous_and_next_follow_the_map(parsed):
    """The order of nbs/index.ipynb, which is the only place where it stands."""
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    order = [f"nbs/{name}.html" for name in re.findall(r"^\|? ?\**\[[^]]+\]\(([\w/]+)\.ipynb\)", text, re.MULTILINE)]
    assert len(order) > 40 and order[0] == "nbs/00_check.html"

    def follow(name, neighbour):
        while name:
            yield name
            address = parsed[name].neighbours.get(neighbour)
            name = address and os.path.normpath(os.path.join(os.path.dirname(name), address))

    onward = list(follow(order[0], "next-page"))
    assert [name for name in onward if name in order] == order
    assert list(follow(onward[-1], "prev-page"))[: len(onward)] == onward[::-1]


LINKED = """<article><section id="one"><h1>One<a class="headerlink" href="#one">#</a></h1><h2>Two</h2></section>
<a href="{}">a link</a></article>"""


@pytest.mark.parametrize(
    "address, dead",
    [
        ("", False),
        ("#one", False),
        ("b.html", False),
        ("b.html#one", False),
        ("https://example.org/x", False),
        ("https://github.com/o/r/blob/main/README.md", False),
        ("#three", True),
        ("b.html#three", True),
        ("c.html", True),
        ("../outside.html", True),
        ("http://example.org/x", True),
        ("https://github.com/o/r/blob/main/READYOU.md", True),
    ],
)
def test_dead_links_are_found(tmp_path, address, dead):
    (tmp_path / "outside.html").touch()
    site = tmp_path / "site"
    site.mkdir()
    for name, text in [("a.html", LINKED.format(address)), ("b.html", LINKED.format("a.html"))]:
        (site / name).write_text(text)
    parsed = {name: Page((site / name).read_text()) for name in ("a.html", "b.html")}
    assert dead_links(parsed, site, "o/r") == ({"a.html": [f"dead link {address}"]} if dead else {})


def test_headings_without_an_anchor_are_found():
    assert Page(LINKED).bare_headings == ["h2 without an anchor, line 1"]


# All pages in a browser.


@pytest.mark.parametrize("part", range(PARTS))
def test_pages_fit_a_phone(browser, site, server, part):
    """And load from a server without a complaint."""
    findings = {}
    with browser.new_context(viewport=PHONE) as context:
        page = context.new_page()
        complaints = chromium.watch(page)
        for name in pages(site, part):
            page.goto(f"{server}/{name}")
            findings[name] = complaints + chromium.too_wide(page) + chromium.uncopied(page)
            complaints.clear()
    report(findings)


@pytest.mark.parametrize("part", range(PARTS))
def test_pages_can_be_read_by_everyone(browser, site, part):
    """By axe-core's rules: all of them in light; those of colours, which alone depend on it, in dark.

    And pages load from a folder without a complaint.
    """
    assert all((site / f"{name}.html").exists() for name in WHOLE)
    findings = {}
    with browser.new_context(viewport=WIDE, reduced_motion="reduce") as context:
        page = context.new_page()
        complaints = chromium.watch(page)
        for name in pages(site, part):
            page.emulate_media(color_scheme="light")
            page.goto(f"{site.as_uri()}/{name}")
            if name.removesuffix(".html") not in WHOLE:
                page.evaluate("document.querySelectorAll('.sidebar-tree, .toc-tree').forEach(tree => tree.remove())")
            found = complaints + chromium.violations(page)
            page.emulate_media(color_scheme="dark")
            dark = chromium.violations(page, *chromium.COLOURS) + chromium.unreadable_figures(page)
            findings[name] = found + [f"dark: {line}" for line in dark]
            complaints.clear()
    report(findings)


@pytest.mark.parametrize(
    "html, complaint",
    [
        ("<script>console.error('no')</script>", "console error: no"),
        ("<script>throw Error('no')</script>", "exception: no"),
        ("<img src='https://example.org/x.png'>", "outside request: https://example.org/x.png"),
        ("<link rel='stylesheet' href='/none.css'>", "status 404"),
        ("<p>well</p>", None),
    ],
)
def test_complaints_are_heard(browser, server, html, complaint):
    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/made.html", lambda route: route.fulfill(body=html, content_type="text/html"))
        complaints = chromium.watch(page)
        page.goto(f"{server}/made.html")
        assert [line for line in complaints if line.startswith(complaint)] if complaint else not complaints


@pytest.mark.parametrize(
    "html, finding",
    [
        ("<div style='width: 600px'>x</div>", "390"),
        ("<div style='overflow: auto'><div style='width: 600px'>x</div></div>", None),
    ],
)
def test_pages_too_wide_are_found(browser, html, finding):
    with browser.new_context(viewport=PHONE) as context:
        page = context.new_page()
        page.set_content(html)
        found = chromium.too_wide(page)
        assert finding in found[0] if finding else not found


ACCESSIBLE = "<html lang='en'><title>t</title><main><h1>t</h1>{}</main></html>"


@pytest.mark.parametrize(
    "html, rule",
    [
        ("<p>well</p>", None),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>", "image-alt"),
        ("<p style='color: #bbb'>pale</p>", "color-contrast"),
        (
            "<pre><span>def</span> <span>for</span> <span style='color: #bbb'>pale</span></pre>",
            "color-contrast",
        ),
    ],
)
def test_violations_are_found(browser, html, rule):
    with browser.new_context(color_scheme="light") as context:
        page = context.new_page()
        page.set_content(ACCESSIBLE.format(html))
        assert [line.split()[0] for line in chromium.violations(page)] == ([rule] if rule else [])


@pytest.mark.parametrize(
    "html, found",
    [
        ("<article><img style='background: #fff'></article>", 0),
        ("<article><img></article>", 1),
        ("<article><svg width='99' height='99'><text x='9' y='50' fill='#000'>a</text></svg></article>", 1),
        ("<article><svg width='99' height='99'><text x='9' y='50' fill='#fff'>a</text></svg></article>", 0),
        (
            "<article><svg width='99' height='99'><rect width='99' height='99' fill='#fff'/>"
            "<text x='9' y='50' fill='#000'>a</text></svg></article>",
            0,
        ),
    ],
)
def test_unreadable_figures_are_found(browser, html, found):
    with browser.new_context(color_scheme="dark") as context:
        page = context.new_page()
        page.set_content(f"<body style='background: #111'>{html}")
        assert len(chromium.unreadable_figures(page)) == found


def test_a_browser_that_is_named_must_start(browser, monkeypatch):
    from playwright.sync_api import Error

    monkeypatch.setenv("CHROMIUM", "/no/such/browser")
    with pytest.raises(Error):
        chromium.launch(browser.browser_type)


# What a reader does.


def test_search_finds_a_word_of_the_pages(page, root):
    page.goto(f"{root}/index.html")
    page.locator("input[name=q]:visible").first.fill("pooler")
    page.keyboard.press("Enter")
    page.locator("#search-results a[href^='nbs/09_pooler.html']").first.click()
    page.wait_for_url("**/nbs/09_pooler.html*")
    page.goto(f"{root}/search.html?q=nosuchword")
    page.get_by_text("did not match any documents").wait_for()
    assert page.locator("#search-results li").count() == 0


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_can_be_changed_and_is_remembered(page, root):
    page.set_viewport_size(WIDE)
    page.emulate_media(color_scheme="light")
    page.goto(f"{root}/{COPIED}.html")
    light = background(page)
    for _ in range(3):  # at most three clicks lead through light, dark and as the system has it
        page.locator(".theme-toggle:visible").click()
        if background(page) != light:
            break
    dark = background(page)
    assert dark != light
    page.goto(f"{root}/index.html")
    assert background(page) == dark
    page.emulate_media(color_scheme="dark")
    page.evaluate("localStorage.clear()")
    page.reload()
    assert background(page) == dark


def test_copy_buttons_copy(page, root):
    """The first cell that shows is copied whole and pasted, as it stands in the notebook."""
    page.goto(f"{root}/{COPIED}.html")
    cells = json.loads((ROOT / f"{COPIED}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code"]
    block = page.locator("div.cell_input div.highlight:visible").first
    block.hover()
    block.locator("button.copybtn").click()
    page.evaluate("document.body.prepend(document.createElement('textarea'))")
    page.locator("textarea").first.focus()
    page.keyboard.press("Control+V")
    copied = page.locator("textarea").first.input_value().strip()
    assert copied and copied in [re.sub(r"(?m)^#\|.*\n", "", source).strip() for source in sources]


def test_what_is_folded_opens(page, root):
    page.goto(f"{root}/{COPIED}.html")
    folded = page.locator("article details")
    cells = page.locator("article details.hide")
    assert folded.count() > cells.count() > 0  # cells, and the answers to the questions
    for number in range(folded.count()):
        block = folded.nth(number)
        content = block.locator("> :not(summary)").first
        assert not content.is_visible()
        block.locator("> summary").click()
        assert content.is_visible() and content.inner_text().strip()


def test_the_first_page_is_light(browser, server, record_property):
    """Under 300 KB without fonts, uncompressed; when it is first painted is recorded, not asserted."""
    with browser.new_context(viewport=WIDE) as context:
        page = context.new_page()
        responses = []
        page.on("response", lambda response: responses.append(response))
        page.goto(f"{server}/index.html", wait_until="networkidle")
        sizes = {reply.url: len(reply.body()) for reply in responses if reply.request.resource_type != "font"}
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    record_property("first paint, ms", round(paint))
    record_property("weight, bytes", sum(sizes.values()))
    assert len(sizes) > 3
    assert sum(sizes.values()) < 300_000, sizes
