"""Models: sampling, training, judging. Knows no Streamlit; its settings are importable without torch."""
