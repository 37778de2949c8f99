from __future__ import annotations

from tools.config_docs import PAGE, page


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python tools/config_docs.py"
