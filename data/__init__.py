"""What ships with pairloop: the demo model, its prompts, the annotator guidelines."""
