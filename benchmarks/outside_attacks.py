"""Count what other libraries' attacks break beyond our presets, on the digits' test split, and what the presets cost.

    pip install pyautoattack foolbox                   # optional packages
    pip install --no-deps torchattacks                 # what it asks for beside torch is not used here
    python benchmarks/outside_attacks.py output/digits --radii 0.15 0.1 0.05

For every model and radius: the samples that are robust under `standard`, under `strong` and under `former` (PGD-50 on
two losses with 2 restarts, what `standard` was before), and how many of them fall to AutoAttack's four components (each
on its own), foolbox's PGD and torchattacks' MI-FGSM. No attack skips what another one broke. Samples that none of our
attacks breaks at `--beyond` times the radius are left out of the outside attacks; 0 leaves out none.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
from torch import Tensor

from hf_mmcoa import ZeroShotClassifier, evaluate_robustness, load_benchmark
from hf_mmcoa.attacks import StrongAttack
from hf_mmcoa.data.images import to_tensor
from hf_mmcoa.evaluation import ThreatModel

TARGET = 0.005  # of all samples: outside attacks may break as much of what `standard` calls robust
COMPONENTS = ("apgd-ce", "apgd-t", "fab-t", "square")
FORMER = {"num_steps": 50, "restarts": 2, "image_attacks": ("pgd-ce", "pgd-margin")}
SPECIFICATIONS = {
    "former": lambda epsilon: ThreatModel.preset("standard", epsilon=epsilon, **FORMER),
    "standard": lambda epsilon: ThreatModel.preset("standard", epsilon=epsilon),
    "strong": lambda epsilon: ThreatModel.preset("strong", epsilon=epsilon, image_attacks=("strong",)),
}


def main() -> None:
    options = measure.parser(__doc__, "outside_attacks", runs=1)
    options.add_argument("models", nargs="+", help="model folders, such as examples/train_mmcoa.py writes")
    options.add_argument("--radii", nargs="+", type=float, default=[0.15, 0.1, 0.05], help="linf, in pixels of [0, 1]")
    options.add_argument("--split", default="test", help="of the embedded digits")
    options.add_argument("--beyond", type=float, default=1.3, help="see above")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    data = load_benchmark("digits", split=args.split)
    data = data.select(range(8)) if args.quick else data
    runs = []
    for folder in args.models:
        for radius in args.radii:
            runs.append({"model": folder, "radius": radius, **look(folder, data, radius, args)})
            print(line(runs[-1]), flush=True)
            measure.save(measure.report("outside_attacks", runs, quick=args.quick, met=None), args.output)
    worst = max(run["beyond"]["standard"]["any"] / run["samples"] for run in runs)
    settings = {"radii": args.radii, "split": args.split, "beyond": args.beyond}
    result = measure.report("outside_attacks", runs, settings=settings, quick=args.quick, target=TARGET, worst=worst)
    result["met"] = None if args.quick else worst <= TARGET
    measure.save(result, args.output)
    print(measure.verdict(result, "share of samples broken beyond `standard`, at most"))
    raise SystemExit(result["met"] is False)


def look(folder: str, data: Any, radius: float, args: Any) -> dict[str, Any]:
    """One model at one radius: robust samples and seconds by specification, and what the outside attacks add."""
    robust, seconds = {}, {}
    classifier = ZeroShotClassifier.from_pretrained(folder, data.features["label"].names).eval()
    for name, specification in SPECIFICATIONS.items():
        measured = functools.partial(_robust, classifier, data, specification(radius))
        runs = [measure.timed(measured) for _ in range(args.runs)]
        robust[name], seconds[name] = runs[0][0], [clocks for _, clocks in runs]
    images, labels = torch.stack([to_tensor(image) for image in data["image"]]), torch.tensor(data["label"])
    attacked = robust["former"] | robust["standard"] | robust["strong"]
    if args.beyond:
        wider = StrongAttack(epsilon=min(args.beyond * radius, 1.0), num_steps=25)
        near = attacked.nonzero().squeeze(1)
        wrong = classifier(wider(images[near], classifier, labels[near])).argmax(1) != labels[near]
        attacked = torch.zeros_like(attacked).index_fill(0, near[wrong], True)
    broken = {}
    for name, attack in outside(classifier, radius).items() if attacked.any() else ():
        adv_images = attack(images[attacked], labels[attacked]).detach()
        assert (adv_images - images[attacked]).abs().max() <= radius + 1e-5, name
        assert adv_images.min() >= 0 and adv_images.max() <= 1, name
        with torch.no_grad():
            broken[name] = torch.zeros_like(attacked)
            broken[name][attacked] = classifier(adv_images).argmax(1) != labels[attacked]
    broken["any"] = torch.stack([torch.zeros_like(attacked), *broken.values()]).any(0)
    return {
        "samples": len(labels),
        "attacked": int(attacked.sum()),
        "robust": {name: int(rows.sum()) for name, rows in robust.items()},
        "seconds": seconds,
        "beyond": {
            name: {attack: int((rows & found).sum()) for attack, found in broken.items()}
            for name, rows in robust.items()
        },
    }


def outside(classifier: ZeroShotClassifier, radius: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Attacks of other libraries by name: images and labels to adversarial images."""
    import foolbox
    import pyautoattack
    import torchattacks

    for weight in classifier.parameters():  # the packages would fill their gradients
        weight.requires_grad_(False)

    def component(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        suite = pyautoattack.AutoAttack(classifier, norm="Linf", eps=radius, seed=0, device="cpu", version="standard")
        suite.attacks_to_run = [name]

        def attack(images: Tensor, labels: Tensor) -> Tensor:
            with contextlib.redirect_stdout(io.StringIO()):
                found = suite.run_standard_evaluation(images, labels, batch_size=512)
            return found[0] if isinstance(found, tuple) else found

        return attack

    def foolbox_pgd(images: Tensor, labels: Tensor) -> Tensor:
        torch.manual_seed(0)  # foolbox draws its start from the global generator
        pgd = foolbox.attacks.LinfPGD(steps=100, rel_stepsize=0.025)
        return pgd(foolbox.PyTorchModel(classifier, bounds=(0, 1)), images, labels, epsilons=radius)[1]

    attacks = {f"autoattack {name}": component(name) for name in COMPONENTS}
    attacks["foolbox pgd"] = foolbox_pgd
    attacks["torchattacks mi-fgsm"] = torchattacks.MIFGSM(classifier, eps=radius, alpha=radius / 10, steps=100)
    return attacks


def _robust(classifier: ZeroShotClassifier, data: Any, specification: ThreatModel) -> Tensor:
    """Which samples every image attack of a threat model failed on."""
    result = evaluate_robustness(
        classifier.model,
        classifier.encoder.processor,
        data,
        ["clean", "image"],
        threat_model=specification,
        batch_size=512,
        sanity=False,
        progress=False,
    )
    robust = torch.ones(len(data), dtype=torch.bool)
    for name, rows in result["outcomes"].items():
        if name == "clean" or name.startswith("image/"):
            robust &= torch.tensor([row == "1" for row in rows])
    return robust


def line(run: dict[str, Any]) -> str:
    """One model and radius for people."""
    counts = ", ".join(f"{name} {run['robust'][name]} - {run['beyond'][name]['any']}" for name in SPECIFICATIONS)
    found = ", ".join(f"{name} {count}" for name, count in run["beyond"]["standard"].items() if count)
    cost = measure.ratio([{k: v[i] for k, v in run["seconds"].items()} for i in range(len(run["seconds"]["former"]))],
                         "standard", "former")  # fmt: skip
    return (
        f"{Path(run['model']).name} {run['radius']:g}: robust of {run['samples']} - broken beyond: {counts}; beyond "
        f"standard: {found or 'none'}; {run['attacked']} attacked; standard costs "
        f"{cost['cpu']['median']:.2f} of former by CPU seconds, {cost['wall']['median']:.2f} by wall"
    )


if __name__ == "__main__":
    main()
