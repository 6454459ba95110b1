"""Suite file -> plan -> records: what runs, in which order, and what is left when it is interrupted."""
