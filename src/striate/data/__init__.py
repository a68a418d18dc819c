"""Pictures with labels: folders, built-in sets, preprocessing, augmentation, batches.

Knows NumPy and Pillow, and nothing of networks.
"""

from striate.data.augment import Augment
from striate.data.base import ArrayDataset, Dataset, Subset, fit_recipe
from striate.data.builtin import BuiltinSet, load
from striate.data.builtin import names as list  # noqa: A004  read as `data.list()`
from striate.data.folder import FolderDataset, ImageFolder
from striate.data.loader import Loader
from striate.data.picture import BadPicture, read_image
from striate.data.recipe import Recipe
from striate.data.split import split_stratified

__all__ = [
    "ArrayDataset",
    "Augment",
    "BadPicture",
    "BuiltinSet",
    "Dataset",
    "FolderDataset",
    "ImageFolder",
    "Loader",
    "Recipe",
    "Subset",
    "fit_recipe",
    "list",
    "load",
    "read_image",
    "split_stratified",
]
