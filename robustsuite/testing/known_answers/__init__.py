"""Known-answer tests: games whose answer is known beforehand, played by the machinery that judges everything else."""
