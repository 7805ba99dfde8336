"""Run-time checks of the shapes in minibert's signatures: `install()` before minibert is first imported."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float, as PEP 484 has it


def install() -> None:
    install_import_hook("minibert", f"{__name__}.check")
