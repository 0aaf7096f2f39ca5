"""An allocation that cannot succeed is recognised; other errors are not."""

import pytest
import torch

from undrift.core import out_of_memory


def test_the_allocators_error_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_other_errors_are_not():
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not out_of_memory(caught.value)
    assert not out_of_memory(ValueError("out of memory"))
