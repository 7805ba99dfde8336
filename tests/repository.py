"""The repository's files, for tests that build something from a copy of them."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy(folder, *names):
    """Copy these files and folders to `folder`, without what is built or cached there."""
    for name in names:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("_build", "__pycache__", ".ipynb_checkpoints")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder
