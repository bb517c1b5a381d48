"""The licence of weights in the header of a model card."""

import re
from typing import Final

from sspsam.utils.markup import yaml_string

_LICENSE_ID: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.IGNORECASE)  # as the Hub has them, such as apache-2.0
_URL: Final = re.compile(r"https?://\S+")


def license_header(name: str) -> str:
    """Return the lines about a licence for the YAML header of a model card.

    Args:
        name: an identifier of the Hub, a URL or a free text, for which the Hub's identifier is `other`.
    """
    text = " ".join(name.split())
    if _LICENSE_ID.fullmatch(text) and text != "unknown":
        return f"license: {yaml_string(text)}"
    return "license: other" + (f"\nlicense_link: {yaml_string(text)}" if _URL.fullmatch(text) else "")
