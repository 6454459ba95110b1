import pytest

from robustsuite.plugins import registry


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """An empty one, in which plug-ins that are made here end."""
    monkeypatch.chdir(tmp_path)
    registry.discover()
    monkeypatch.setattr(registry.attacks, "_entries", dict(registry.attacks._entries))
