"""Training curves with Winograd's method and with direct kernels: do they agree?

`python -m bench.curves` trains LeNet-BN on Fashion-MNIST twice for each seed, from the same weights
on the same batches, with the defaults of `striate train`: SGD, learning rate 0.02 with a cosine
schedule, momentum 0.9, weight decay 5e-4, batches of 64. Printed is the accuracy on the test set
after each epoch.
"""

from __future__ import annotations

import click

import striate as st
from bench.tables import markdown
from striate.data import fit_recipe
from striate.nn.init import manual_seed

WAYS = ("direct", "auto")


def curve(data: str, seed: int, epochs: int, algorithm: str) -> list[float]:
    """Accuracy after each epoch, in percent."""
    sets = st.data.load(data)
    recipe = fit_recipe(sets.train)
    manual_seed(seed)
    trainer = st.Trainer(
        st.models.create("lenet-bn", num_classes=10, in_channels=1),
        st.optim.SGD(lr=0.02, momentum=0.9, weight_decay=5e-4),
        schedule=st.schedule.Cosine(),
        batch_size=64,
        seed=seed,
        algorithm=algorithm,
    )
    train, test = sets.train.with_recipe(recipe), sets.test.with_recipe(recipe)
    history = trainer.fit(train, test, epochs=epochs).history
    return [100 * accuracy for accuracy in history["val_accuracy"]]


@click.command()
@click.option("--data", default="fashion-mnist", show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--seed", "seeds", multiple=True, default=(0, 1, 2), show_default=True)
def main(data: str, epochs: int, seeds: tuple[int, ...]) -> None:
    """Train, and print accuracies and their differences in points."""
    table = []
    for seed in seeds:
        curves = {way: curve(data, seed, epochs, way) for way in WAYS}
        for way, values in curves.items():
            table.append((str(seed), way, *(f"{value:.2f}" for value in values)))
        gaps = (auto - direct for direct, auto in zip(*curves.values(), strict=True))
        table.append((str(seed), "difference", *(f"{gap:+.2f}" for gap in gaps)))
    click.echo(markdown(("seed", "algorithm", *(f"epoch {e + 1}" for e in range(epochs))), table))


if __name__ == "__main__":
    main()
