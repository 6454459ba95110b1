"""Plug-ins by name: registered, loaded, checked, told from one another by their code."""
