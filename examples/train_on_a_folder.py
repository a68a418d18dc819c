"""Train a net on a folder of pictures, one sub-folder a class, and save it with its preprocessing.

usage: python train_on_a_folder.py FOLDER [EPOCHS]
"""

import sys
from dataclasses import asdict

import striate as st

folder = sys.argv[1]
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10

pictures = st.data.ImageFolder(folder)
parts = st.data.split_stratified(pictures.labels, fraction=0.2, seed=0)
train, valid = (pictures.subset(part) for part in parts)
recipe = st.data.fit_recipe(train)  # mean and deviation of the training pictures
train, valid = train.with_recipe(recipe), valid.with_recipe(recipe)

st.manual_seed(0)
classes = list(pictures.classes)
net = st.models.create(
    "lenet-bn", num_classes=len(classes), in_channels=recipe.channels, image_size=recipe.size[0]
)
trainer = st.Trainer(
    net,
    st.optim.SGD(lr=0.02, momentum=0.9, weight_decay=5e-4),
    schedule=st.schedule.Cosine(),
    callbacks=[st.callbacks.ProgressBar()],
)
history = trainer.fit(train, valid, epochs=epochs).history

st.save(net, "pictures.safetensors", classes=classes, recipe=asdict(recipe))
print(f"pictures.safetensors: validation accuracy {history['val_accuracy'][-1]:.1%}")
