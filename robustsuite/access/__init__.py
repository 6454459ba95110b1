"""What one adversary may touch: a white box, oracles, inputs alone; and the fast passes below them."""
