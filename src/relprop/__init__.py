"""relprop."""
