"""Evasion: find an input near a correctly classified one that the deployed model gets wrong."""
