"""The same net, recipe, starting weights and batches in Striate and in PyTorch: accuracy and time.

`python -m bench.fashion_mnist` trains LeNet-BN on the full Fashion-MNIST for 5 epochs with the
defaults of `striate train`: SGD, learning rate 0.02 with a cosine schedule, momentum 0.9, weight
decay 5e-4, batches of 64. Epochs of the two alternate. Times are of the training steps alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import click
import numpy as np
import numpy.typing as npt
import torch

import striate as st
from bench.nets import lenet_bn
from striate.data import Loader, fit_recipe

Array = npt.NDArray[np.generic]
Batches = list[tuple[Array, Array]]
LR, MOMENTUM, WEIGHT_DECAY, BATCH = 0.02, 0.9, 5e-4, 64


def cosine(epochs: int, epoch: int) -> float:
    """Rate of an epoch: LR · (1 + cos(π · epoch / epochs)) / 2."""
    return LR * (1 + math.cos(math.pi * epoch / epochs)) / 2


def accuracy(predict: Callable[[Array], Array], batches: Batches) -> float:
    """Share of right answers."""
    right = sum(int((predict(x).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


@click.command()
@click.option("--data", default="fashion-mnist", show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--threads", default=0, help="0: all that this process may use.")
@click.option("--seed", default=0, show_default=True)
def main(data: str, epochs: int, threads: int, seed: int) -> None:
    """Train both and print seconds an epoch and test accuracy, epoch by epoch."""
    if threads:
        st.set_num_threads(threads)
    torch.set_num_threads(st.get_num_threads())
    torch.manual_seed(seed)
    sets = st.data.load(data)
    recipe = fit_recipe(sets.train)
    train, test = sets.train.with_recipe(recipe), sets.test.with_recipe(recipe)
    loader = Loader(train, BATCH, shuffle=True, seed=seed)
    tests = list(Loader(test, 500).epoch(0))
    theirs = lenet_bn().to(memory_format=torch.channels_last)
    ours = st.models.create("lenet-bn", num_classes=10, in_channels=1)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    optimizer = torch.optim.SGD(
        theirs.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    step = st.compile_step(
        ours, optimizer=st.optim.SGD(lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    )

    def torch_step(x: Array, y: Array) -> float:
        xt = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(theirs(xt), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def torch_predict(x: Array) -> Array:
        with torch.inference_mode():
            return theirs.eval()(torch.from_numpy(x)).numpy()

    def predict(x: Array) -> Array:
        return ours.eval()(x)

    click.echo("epoch  Striate s  PyTorch s  ratio  Striate accuracy  PyTorch accuracy")
    for epoch in range(epochs):
        batches = list(loader.epoch(epoch))
        step.lr = cosine(epochs, epoch)
        for group in optimizer.param_groups:
            group["lr"] = step.lr
        theirs.train()
        seconds = []
        for do in (step, torch_step):
            start = time.perf_counter()
            for x, y in batches:
                do(x, y)
            seconds.append(time.perf_counter() - start)
        mine, other = accuracy(predict, tests), accuracy(torch_predict, tests)
        click.echo(
            f"{epoch + 1:5d}  {seconds[0]:9.2f}  {seconds[1]:9.2f}  "
            f"{seconds[1] / seconds[0]:5.2f}  {mine:16.4f}  {other:16.4f}"
        )


if __name__ == "__main__":
    main()
