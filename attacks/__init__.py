"""Built-in attacks, one algorithm a file; they use nothing that a stranger's plug-in could not use."""
