"""The browser app: `streamlit run ui/app.py` with PAIRLOOP_WORKSPACE set, or `python -m ui.serve`. Knows no torch."""

from __future__ import annotations

import streamlit as st

from ui.state import current_workspace, errors_in_words, my_name
from ui.theme import ICON, dress_page, mind_keys


def main() -> None:
    """Draw the page the visitor is on."""
    st.set_page_config(page_title="pairloop", page_icon=ICON, layout="wide")
    page = st.navigation(
        [
            st.Page("pages/label.py", title="Label", icon=":material/compare_arrows:", default=True),
            st.Page("pages/loop.py", title="Loop", icon=":material/sync:"),
            st.Page("pages/runs.py", title="Runs", icon=":material/timeline:"),
            st.Page("pages/data.py", title="Data", icon=":material/database:"),
            st.Page("pages/team.py", title="Team", icon=":material/fact_check:"),
            st.Page("pages/settings.py", title="Settings", icon=":material/tune:"),
        ],
        position="top",
    )
    dress_page()
    with errors_in_words():
        current_workspace()
        my_name()
        page.run()
    mind_keys()


if __name__ == "__main__":
    main()
