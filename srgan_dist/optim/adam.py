"""Adam with the paper's settings, and the weights that its next step would give.

Learning rates are 0-d tensors on the device, so that a schedule changes them without a new graph or a wait.
"""

import torch

BETAS, EPSILON = (0.9, 0.999), 1e-8
# Elements of a tensor whose next step is computed at a time. A CPU keeps the copies of a piece in its caches:
# a quarter of the time of whole tensors. On a GPU the copies take 8 bytes per element of a piece.
PIECE = {"cpu": 2**18, "cuda": 2**24}


def adam(parameters, learning_rate):
    """Return fused Adam with the paper's settings (betas 0.9 and 0.999, epsilon 1e-8)."""
    parameters = list(parameters)
    device = parameters[0].device
    optimizer = torch.optim.Adam(
        parameters, learning_rate, BETAS, EPSILON, fused=True, capturable=device.type == "cuda"
    )
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    optimizer.param_groups[0]["lr"] = torch.full((), learning_rate, dtype=dtype, device=device)
    return optimizer


def set_learning_rate(optimizer, learning_rate):
    for group in optimizer.param_groups:
        group["lr"].fill_(learning_rate)


@torch.no_grad()
def write_next_weights(optimizer, targets):
    """Write into `targets` the weights that the next step of an optimiser from `adam` would give, and change
    nothing else.

    targets: a tensor per parameter, of its shape and memory format, of any floating type. It is the same
    fused kernel, on copies of moments and weights, so that the weights are the same too.
    """
    (group,) = optimizer.param_groups
    states = [_state(optimizer, parameter) for parameter in group["params"]]
    step = states[0]["step"] + 1  # the same for all
    rows = [
        (parameter, laid_out_as(parameter.grad, parameter), state["exp_avg"], state["exp_avg_sq"], target)
        for parameter, state, target in zip(group["params"], states, targets, strict=True)
    ]
    for weights, gradients, means, squares, written in _pieces(rows, PIECE[step.device.type]):
        copies = torch._foreach_mul([*means, *squares], 1)  # in one launch
        means, squares = copies[: len(written)], copies[len(written) :]
        if same_type := written[0].dtype == weights[0].dtype:
            torch._foreach_copy_(written, weights)
        stepped = written if same_type else torch._foreach_mul(weights, 1)
        torch._fused_adam_(
            stepped,
            gradients,
            means,
            squares,
            [],
            [step] * len(written),
            lr=group["lr"],
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
        if not same_type:
            torch._foreach_copy_(written, stepped)


def _state(optimizer, parameter):
    """Return Adam's state of a parameter, which before the first step is made as Adam would make it."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    return state


def _pieces(rows, size):
    """Yield rows of tensors of one shape column by column, as lists; `size` elements or so at a time, larger
    ones in pieces.
    """
    pieces, elements = [], 0
    for row in rows:
        large = row[0].numel() > size
        for piece in zip(*(_flat(t, row[0]).split(size) for t in row), strict=True) if large else [row]:
            if pieces and elements + piece[0].numel() > size:
                yield [list(column) for column in zip(*pieces, strict=True)]
                pieces, elements = [], 0
            pieces.append(piece)
            elements += piece[0].numel()
    yield [list(column) for column in zip(*pieces, strict=True)]


def _flat(tensor, like):
    """Return a tensor as one dimension, in the order of `like`'s memory."""
    return laid_out_as(tensor, like).as_strided((tensor.numel(),), (1,))


def laid_out_as(tensor, like):
    """Return a tensor with the strides of another of its shape, without a copy where only dimensions of size
    1 differ in them: the foreach functions take tensors one by one where strides differ.
    """
    if tensor.stride() == like.stride():
        return tensor
    if all(
        size == 1 or one == other
        for size, one, other in zip(like.shape, tensor.stride(), like.stride(), strict=True)
    ):
        return tensor.as_strided(like.shape, like.stride())
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
