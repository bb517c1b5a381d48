"""Wording about the installation of extras, in one place: the package is installed from a checkout."""

from sspsam.errors import MissingExtraError


def missing_extra(purpose: str, package: str, extra: str, error: ImportError) -> MissingExtraError:
    """Return the error for a package that belongs to an extra and cannot be imported.

    Args:
        purpose: subject of the message, such as "a batch on a cluster".
        package: name of the missing package.
        extra: name of the extra that installs it.
        error: of the import.
    """
    return MissingExtraError(
        f"{purpose} needs {package}, which is not installed ({error}): install sspsam[{extra}], in a checkout with "
        f"pip install '.[{extra}]'"
    )
