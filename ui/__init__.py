"""Two faces of the same loop: Streamlit pages and the command line. No queries, no rules."""
