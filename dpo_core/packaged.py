"""What ships inside the package: the demo model and the demo prompts. Importable without torch.

Settings and checkpoints name the demo model `pairloop:demo`, never by its path: a workspace then outlives a moved or
upgraded installation.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

DEMO_MODEL = "pairloop:demo"


def packaged(name: str) -> Path:
    """A file or folder that ships with pairloop, such as `demo/model`."""
    try:
        root = Path(str(files("pairloop_data")))
    except ModuleNotFoundError:  # a checkout that was never installed keeps it in data/
        root = Path(__file__).resolve().parent.parent / "data"
    return root / name
