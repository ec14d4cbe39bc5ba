"""docs/settings.md holds the keys of settings files as they are; `python -m adjointdpm.cli.settings_page` writes it."""

import re

from adjointdpm.cli.settings_page import FILE, page


def test_the_page_is_current_and_explains_every_key() -> None:
    text = page()
    assert FILE.read_text() == text, "run python -m adjointdpm.cli.settings_page"
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|.*\| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 100
    assert all(len(what) > 8 for _, _, what in rows)
    assert ("taus", "--tau", "Bounds, any order.") in rows
    assert ("norm", "--norm") in [row[:2] for row in rows]
    assert "One of linf, l2, shell." in text
