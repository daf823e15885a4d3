"""Attack a CLIP with foolbox, and with our PGD at the same specification: two implementations must agree.

`ZeroShotClassifier` is a classifier of images in [0, 1] like any other, so foolbox takes it unchanged.

    pip install foolbox
    python examples/attack_with_foolbox.py MODEL [--norm l2 --epsilon 1.0]
"""

from __future__ import annotations

import argparse

import foolbox
import torch

from hf_mmcoa import ZeroShotClassifier
from hf_mmcoa.attacks import PGD
from hf_mmcoa.attacks.image_losses import class_loss
from hf_mmcoa.data.digits import CLASS_NAMES, load_digits
from hf_mmcoa.data.images import to_tensor

ATTACKS = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a CLIP, e.g. what examples/train_mmcoa.py wrote")
    parser.add_argument("--norm", choices=ATTACKS, default="linf")
    parser.add_argument("--epsilon", type=float, default=0.15, help="in pixels of [0, 1]")
    parser.add_argument("--num_steps", type=int, default=20, help="of epsilon / 4")
    parser.add_argument("--num_images", type=int, default=360, help="of the embedded digits' test split")
    args = parser.parse_args(arguments)

    rows = load_digits("test")[: args.num_images]
    images, labels = torch.stack([to_tensor(image) for image in rows["image"]]), torch.tensor(rows["label"])
    classifier = ZeroShotClassifier.from_pretrained(args.model, CLASS_NAMES)

    attack = ATTACKS[args.norm](abs_stepsize=args.epsilon / 4, steps=args.num_steps, random_start=True)
    torch.manual_seed(0)  # foolbox draws its start from the global generator
    theirs = attack(foolbox.PyTorchModel(classifier.eval(), bounds=(0, 1)), images, labels, epsilons=args.epsilon)[1]

    pgd = PGD(epsilon=args.epsilon, step_size=args.epsilon / 4, num_steps=args.num_steps, norm=args.norm)
    ours = pgd(images, lambda adv_images: class_loss(classifier(adv_images), labels))

    with torch.no_grad():
        accuracy = {
            name: (classifier(attacked).argmax(1) == labels).float().mean().item()
            for name, attacked in (("clean", images), ("foolbox", theirs), ("hf_mmcoa", ours))
        }
    print("  ".join(f"{name} {100 * value:.1f}%" for name, value in accuracy.items()))
    return accuracy


if __name__ == "__main__":
    main()
