import pytest

from tests.modeling.local_hub import serve, use_endpoint


@pytest.fixture
def hub(monkeypatch):
    """The Hugging Face Hub, with one file in every repository."""
    with serve({"open_clip_pytorch_model.bin": b"weights"}) as hub:
        use_endpoint(hub.url, monkeypatch)
        yield hub
