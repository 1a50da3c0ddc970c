"""The browser app: `python -m ui.serve`, or `streamlit run ui/app.py --server.address 127.0.0.1` with
PAIRLOOP_WORKSPACE set. Knows no torch."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from dpo_core.errors import CoreError, LoginNeededError
from store.errors import StoreError
from ui.state import current_workspace, errors_in_words, my_name, served_workspace, visitor
from ui.theme import ICON, dress_page, mind_keys
from ui.visitors import log_in_page

PAGES = (
    ("loop", "Loop", "sync"),
    ("runs", "Runs", "timeline"),
    ("lineage", "Lineage", "account_tree"),
    ("playground", "Playground", "forum"),
    ("data", "Data", "database"),
    ("team", "Team", "fact_check"),
    ("people", "People", "group"),
    ("settings", "Settings", "tune"),
)


def main() -> None:
    """Draw the page the visitor is on; for a stranger, the way in and nothing else."""
    st.set_page_config(page_title="pairloop", page_icon=ICON, layout="wide")
    offered, stranger = who_is_here()
    # Pages that are not offered exist all the same: whoever opens one by its address is told why not.
    seen: Literal["visible", "hidden"] = "visible" if offered else "hidden"
    page = st.navigation(
        [
            st.Page("pages/label.py", title="Label", icon=":material/compare_arrows:", default=True),
            *(
                st.Page(f"pages/{name}.py", title=title, icon=f":material/{icon}:", visibility=seen)
                for name, title, icon in PAGES
            ),
        ],
        position="hidden" if stranger else "top",
    )
    dress_page()
    with errors_in_words():
        if stranger:
            log_in_page(served_workspace(), stranger)
        else:
            current_workspace()
            my_name()
            page.run()
    mind_keys()


def who_is_here() -> tuple[bool, str]:
    """Whether the researchers' pages are offered; and for a stranger, why they are not let in."""
    try:
        asked = st.session_state.pop("visitor_asked", False)  # by the press that this page answers
        return visitor(anew=not asked).researcher, ""
    except LoginNeededError as error:
        return False, str(error)
    except (StoreError, CoreError):  # the page will say what is wrong
        return True, ""


if __name__ == "__main__":
    main()
