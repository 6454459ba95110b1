"""Can this number be believed? Standing checks, stand-ins for gradients that are missing, and escalation."""
