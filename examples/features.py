"""Use a trained net as a feature extractor: find the most similar training picture.

usage: python features.py MODEL     a lenet-bn, e.g. the best.safetensors of a run on
                                    fashion-mnist-sample
"""

import json
import sys

import numpy as np

import striate as st

net = st.load(sys.argv[1])
recipe = st.data.Recipe.from_json(json.dumps(net.recipe))
clothes = st.data.load("fashion-mnist-sample")


def describe(pictures):
    """Unit vectors (500, 128) of the first pictures, from the layer before the last, and labels."""
    x, labels = pictures.with_recipe(recipe).load(range(500))
    vectors = net.features(x, ["fc1"])["fc1"]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


known, known_labels = describe(clothes.train)
asked, asked_labels = describe(clothes.test)
nearest = (asked @ known.T).argmax(axis=1)  # cosine similarity

for i in range(5):
    name, twin = clothes.classes[asked_labels[i]], clothes.classes[known_labels[nearest[i]]]
    print(f"test picture {i} ({name}) is most like training picture {nearest[i]} ({twin})")
print(f"same class: {(known_labels[nearest] == asked_labels).mean():.1%} of {len(asked)} pictures")
