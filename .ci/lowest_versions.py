"""Print the lowest versions that setup.cfg allows, as constraints for pip.

    python .ci/lowest_versions.py [--extra EXTRA ...] [--except NAME ...]

A requirement `name>=x` becomes `name==x`; every requirement must have such a bound. Extras in square brackets of a
requirement are left out, because pip does not take them in constraints.
"""

import argparse
import configparser
import re
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^\]]*\])?>=(?P<version>[\w.]+)")


def constraint(requirement: str) -> tuple[str, str]:
    """Name and constraint of a requirement."""
    match = REQUIREMENT.fullmatch(requirement.replace(" ", ""))
    if match is None:
        raise SystemExit(f"{SETUP}: {requirement!r} has no lower bound of the form name>=version")
    return match["name"], f"{match['name']}=={match['version']}"


def requirements(extras: list[str]) -> list[str]:
    """Requirements of the package and of some of its extras."""
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def main() -> None:
    """Print one constraint a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", default=[], help="an extra whose requirements count, too")
    parser.add_argument("--except", action="append", default=[], dest="excepted", help="a name to leave out")
    arguments = parser.parse_args()
    constraints = dict(constraint(requirement) for requirement in requirements(arguments.extra))
    print("\n".join(line for name, line in constraints.items() if name not in arguments.excepted))


if __name__ == "__main__":
    main()
