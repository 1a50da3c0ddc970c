"""The demo model, its prompts, and the scripts that make and measure them."""
