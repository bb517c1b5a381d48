"""Print the lowest versions that setup.cfg allows, as constraints for pip.

    python .ci/lowest_versions.py [--extra EXTRA ...] [--except NAME ...] [--installed]

A requirement `name>=x` becomes `name==x`; every requirement must have such a bound. Extras in square brackets of a
requirement are left out, because pip does not take them in constraints. With `--installed`, fail unless the environment
of this Python has exactly those versions.
"""

import argparse
import configparser
import importlib.metadata
import re
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^\]]*\])?>=(?P<version>[\w.]+)")


def name_and_version(requirement: str) -> tuple[str, str]:
    """Name and lowest version of a requirement."""
    match = REQUIREMENT.fullmatch(requirement.replace(" ", ""))
    if match is None:
        raise SystemExit(f"{SETUP}: {requirement!r} has no lower bound of the form name>=version")
    return match["name"], match["version"]


def requirements(extras: list[str]) -> list[str]:
    """Requirements of the package and of some of its extras."""
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def is_installed(name: str, version: str) -> bool:
    """True if the environment has a distribution in a version; 1.0 and 1.0.0 are the same version."""
    installed = importlib.metadata.version(name)
    return re.sub(r"(\.0)+$", "", installed) == re.sub(r"(\.0)+$", "", version)


def main() -> None:
    """Print one constraint a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", default=[], help="an extra whose requirements count, too")
    parser.add_argument("--except", action="append", default=[], dest="excepted", help="a name to leave out")
    parser.add_argument("--installed", action="store_true", help="fail unless these versions are installed")
    arguments = parser.parse_args()
    versions = dict(name_and_version(requirement) for requirement in requirements(arguments.extra))
    lowest = {name: version for name, version in versions.items() if name not in arguments.excepted}
    print("\n".join(f"{name}=={version}" for name, version in lowest.items()))
    others = [name for name, version in lowest.items() if arguments.installed and not is_installed(name, version)]
    if others:
        raise SystemExit(f"not installed in these versions: {', '.join(others)}")


if __name__ == "__main__":
    main()
