"""Checks of environment variables that `huggingface_hub` and its HTTP package read, so that an error can name them."""

import importlib
import os
import ssl
from collections.abc import Sequence
from typing import Final

from sspsam.errors import HubError
from sspsam.utils.paths import shown

_CERTIFICATE_FILES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXIES: Final = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")


def check_hub_environment() -> None:
    """Import the constants of `huggingface_hub`, which read environment variables.

    `open_clip` imports them too, so a malformed variable affects every use of a model.

    Raises:
        HubError: a variable has a malformed value; the message names it.
    """
    try:
        importlib.import_module("huggingface_hub.constants")
    except ValueError as error:
        names = _variables_in(str(error))
        raise HubError(
            f"the environment variable {' or '.join(names) or 'of huggingface_hub'} has a value that huggingface_hub "
            f"cannot read ({shown(error)}). Correct or unset it; a timeout is a whole number of seconds."
        ) from error


def _variables_in(message: str) -> list[str]:
    """The variables of `huggingface_hub` whose value an error message quotes."""
    prefixes = ("HF_", "HUGGING", "HUGGINGFACE_")
    return sorted(name for name, value in os.environ.items() if name.startswith(prefixes) and repr(value) in message)


def dead_certificate_file() -> str:
    """Describe an environment variable that names a file without certificates; empty if there is none."""
    for variable in _CERTIFICATE_FILES:
        path = os.environ.get(variable)
        if not path or os.path.isdir(path):
            continue
        try:
            ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            reason = getattr(error, "strerror", None) or str(error)
            return (
                f"the environment variable {variable} names {shown(path)}, which is no file of certificates ({reason})"
            )
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not any(os.path.isdir(part) for part in folder.split(os.pathsep)):
        return f"the environment variable SSL_CERT_DIR names {shown(folder)}, which is no folder"
    return ""


def proxy_variables() -> Sequence[str]:
    """The environment variables that name a proxy, in capitals or not, as far as they are set."""
    return [name for proxy in _PROXIES for name in (proxy, proxy.lower()) if os.environ.get(name)]
