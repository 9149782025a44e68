import pytest
import torch

from penstock.torch_threads import torch_threads


def inside(number):
    with torch_threads(number):
        raise KeyError(torch.get_num_threads())


@pytest.mark.parametrize("number", [None, 1, 3])
def test_the_thread_count_is_set_and_given_back_after_an_error_too(number):
    before = torch.get_num_threads()
    with pytest.raises(KeyError, match=f"^{number or before}$"):
        inside(number)
    assert torch.get_num_threads() == before
