"""Examines before a run what it needs: what is there, what is missing, and where to get it. Downloads nothing."""
