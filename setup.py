"All metadata is in settings.ini; this file only hands it to setuptools."
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def requirements(key):
    return shlex.split(cfg[key])


extras = {key.removesuffix("_requirements"): requirements(key) for key in cfg if key.endswith("_requirements")}
extras["dev"] = sorted({requirement for group in extras.values() for requirement in group})
first_minor = int(cfg["min_python"].split(".")[1])

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"].split(),
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"]},
    packages=find_packages(include=[cfg["lib_name"], cfg["lib_name"] + ".*"]),
    package_data={cfg["lib_name"]: ["py.typed", "explorer.html"]},
    include_package_data=False,
    python_requires=">=" + cfg["min_python"],
    install_requires=requirements("requirements"),
    extras_require=extras,
    entry_points={"nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Education",
        "Intended Audience :: Developers",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(first_minor, 14)),
    ],
    zip_safe=False,
)
