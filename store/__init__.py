"""What people said, and everything needed to say where a model came from. Knows no torch and no screens."""
