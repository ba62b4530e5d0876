"""Parts of pages that commands write: what stands between `<!-- made: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from pathlib import Path


def put(page: Path, name: str, text: str) -> None:
    """Write one part anew; the rest of the page stays."""
    before = page.read_text(encoding="utf-8")
    part = re.compile(rf"(<!-- made: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    after, count = part.subn(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", before)
    if count != 1:
        raise SystemExit(f"{page} has {count} parts {name!r}, and should have one.")
    page.write_text(after, encoding="utf-8")
