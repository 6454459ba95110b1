"""One model judged: the game that is asked for, the victim, the record."""
