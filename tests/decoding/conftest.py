import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_for_tiny_models(request):
    """More threads only wait for each other on matrices this small."""
    threads = torch.get_num_threads()
    if not request.module.__name__.endswith("_real"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
