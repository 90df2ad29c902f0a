"""What happens to a page while the site is built."""

from __future__ import annotations

import re
from typing import Any

# The docstrings' cross-references, ``:class:`~package.Name```: editors follow them, in the site they are code.
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?")


def on_page_content(html: str, **_: Any) -> str:
    """Drop the names of the roles, and the tilde that abbreviates."""
    return ROLE.sub("<code>", html)
