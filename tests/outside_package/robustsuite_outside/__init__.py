"""Published attacks and defences, as somebody adds them who knows the documentation alone."""
