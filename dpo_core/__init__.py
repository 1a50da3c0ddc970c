"""Models: sampling, training, judging. Knows no Streamlit; its settings are importable without torch."""

import os

# Read once, when torch is loaded, which every way to torch does after this. Threads that spin while they wait are a
# little quicker on a machine of their own; beside the app, or anything else that computes, they take the cores from
# those that work: sampling from the demo model was 5 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
