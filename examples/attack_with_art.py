"""Attack a CLIP with the Adversarial Robustness Toolbox, and with our PGD at the same specification.

`ZeroShotClassifier` is a classifier of images in [0, 1] like any other: ART's `PyTorchClassifier` takes it unchanged.

    pip install adversarial-robustness-toolbox
    python examples/attack_with_art.py MODEL [--norm l2 --epsilon 1.0]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier

from hf_mmcoa import ZeroShotClassifier
from hf_mmcoa.attacks import PGD
from hf_mmcoa.attacks.image_losses import class_loss
from hf_mmcoa.data.digits import CLASS_NAMES, load_digits
from hf_mmcoa.data.images import to_tensor

NORMS = {"linf": np.inf, "l2": 2}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a CLIP, e.g. what examples/train_mmcoa.py wrote")
    parser.add_argument("--norm", choices=NORMS, default="linf")
    parser.add_argument("--epsilon", type=float, default=0.15, help="in pixels of [0, 1]")
    parser.add_argument("--num_steps", type=int, default=20, help="of epsilon / 4")
    parser.add_argument("--no_random_start", action="store_true", help="start both at the image")
    parser.add_argument("--num_images", type=int, default=360, help="of the embedded digits' test split")
    args = parser.parse_args(arguments)

    rows = load_digits("test")[: args.num_images]
    images, labels = torch.stack([to_tensor(image) for image in rows["image"]]), torch.tensor(rows["label"])
    classifier = ZeroShotClassifier.from_pretrained(args.model, CLASS_NAMES)

    art_classifier = PyTorchClassifier(
        classifier,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=len(CLASS_NAMES),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    np.random.seed(0)  # ART draws its start from the global generators
    attack = ProjectedGradientDescentPyTorch(
        art_classifier,
        norm=NORMS[args.norm],
        eps=args.epsilon,
        eps_step=args.epsilon / 4,
        max_iter=args.num_steps,
        num_random_init=0 if args.no_random_start else 1,
        batch_size=len(images),
        verbose=False,
    )
    theirs = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    pgd = PGD(epsilon=args.epsilon, step_size=args.epsilon / 4, num_steps=args.num_steps, norm=args.norm)
    ours = pgd(images, lambda adv_images: class_loss(classifier(adv_images), labels))

    with torch.no_grad():
        accuracy = {
            name: (classifier(attacked).argmax(1) == labels).float().mean().item()
            for name, attacked in (("clean", images), ("ART", theirs), ("hf_mmcoa", ours))
        }
    print("  ".join(f"{name} {100 * value:.1f}%" for name, value in accuracy.items()))
    return accuracy


if __name__ == "__main__":
    main()
