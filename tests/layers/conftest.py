"""What several tests of layers use."""

import pytest
import torch

from mmonepeace.layers import gpu_attention


@pytest.fixture
def kernels(monkeypatch):
    """Stands in for both kernels of GPUs; keeps the sizes of the biases that they get."""
    biases = []

    def logits(q, k, bias, scale):
        return q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + bias

    def forward(q, k, v, bias, compute_log_sumexp, *, scale):
        assert compute_log_sumexp
        biases.append(bias.shape)
        found = logits(q, k, bias, scale)
        return found.softmax(-1) @ v, found.logsumexp(-1), torch.tensor(0), torch.tensor(0)

    def backward(grad, q, k, v, bias, out, sums, seed, offset, dropout, wanted, *, scale):
        assert dropout == 0
        biases.append(bias.shape)
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (q, k, v, bias)]
            result = logits(*inputs[:2], inputs[3], scale).softmax(-1) @ inputs[2]
        grads = torch.autograd.grad(result, inputs, grad)
        torch.testing.assert_close(result, out)
        return tuple(g if w else None for g, w in zip(grads, wanted, strict=True))

    monkeypatch.setattr(gpu_attention, "_KERNEL", forward)
    monkeypatch.setattr(gpu_attention, "_BACKWARD_KERNEL", backward)
    return biases
