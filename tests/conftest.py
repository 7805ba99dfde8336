"""The shapes in minibert's signatures are checked at run time in every test, but for those that ask to be a user.

The documentation is built once for all tests, and a browser started once for each file of tests that asks for it.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import chromium
import jaxtyping
import pytest
import repository
import shapes
import torch
from filelock import FileLock

shapes.install()
torch.set_num_threads(1)  # the models here are small, and two tests run side by side


@pytest.fixture
def as_a_user():
    """Without the run-time shape checks, which a user doesn't have: bad input meets minibert's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """The documentation, built from a copy of its sources: its `folder`, what Sphinx `printed`, whether that `failed`.

    The workers of a test run share one build: the first that asks makes it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    sources, site, log = base / "documentation", base / "documentation" / "site", base / "documentation.log"
    with FileLock(base / "documentation.lock"):
        if not log.exists():
            sources.mkdir()
            repository.copy(sources, "settings.ini", "nbs", "minibert", "docs")
            command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "docs", "site"]
            result = subprocess.run(command, cwd=sources, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            log.write_text(f"{result.returncode}\n{result.stdout}", encoding="utf-8")
    code, printed = log.read_text(encoding="utf-8").split("\n", 1)
    return SimpleNamespace(folder=site, printed=printed, failed=code != "0")


@pytest.fixture(scope="session")
def site(request):
    """The folder of the built site: one built before that the environment variable SITE names, or else `build`'s.

    Whether it was built without a warning is for another test to say.
    """
    if named := os.environ.get("SITE"):
        return Path(named).resolve()
    build = request.getfixturevalue("build")
    assert (build.folder / "index.html").exists(), build.printed
    return build.folder


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; not for longer than a file of tests, because Playwright's event loop stands in others' way."""
    with chromium.started() as started:
        yield started


@pytest.fixture
def page(browser):
    """An empty page; it fails the test if a console error, an exception or an outside request comes up in it."""
    page = browser.new_page()
    complaints = chromium.watch(page)
    yield page
    page.close()
    assert not complaints
