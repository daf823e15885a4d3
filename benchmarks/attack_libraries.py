"""Run every image attack of foolbox, ART, torchattacks and pyautoattack on a `ZeroShotClassifier`, to see which run.

    pip install foolbox adversarial-robustness-toolbox pyautoattack
    pip install --no-deps torchattacks                 # what it asks for beside torch is not used here
    python benchmarks/attack_libraries.py              # about 5 minutes; prints the table of docs/attacks.md

Each attack gets a tiny CLIP of the digits, a few of their test images and a small budget. Attacks that the check of the
pixels stops run once more with `on_out_of_range="clamp"`. It shows that an attack runs; how strong it is with its real
budget is another question. What needs more than an image and its label (another image, a patch, sound, a target) is
given it where that is one line, and otherwise counts as not run.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import json
import logging
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor

from hf_mmcoa import MMCoAConfig, ZeroShotClassifier
from hf_mmcoa.data.digits import CLASS_NAMES, load_digits
from hf_mmcoa.data.images import to_tensor
from hf_mmcoa.testbed.pretraining import pretrain_on_digits

Attack = Callable[[Tensor, Tensor], Tensor]  # images and labels to attacked images

# What the libraries' constructors call their budgets, and the values that make a run short.
BUDGETS: dict[str, Any] = {
    **dict.fromkeys(("steps", "max_iter", "iterations", "num_steps", "nb_iter", "n_iter"), 5),
    **dict.fromkeys(("init_steps", "optim_steps", "max_trial", "nb_epochs", "num_evaluations", "max_halving"), 3),
    **dict.fromkeys(("binary_search_steps", "search_steps", "initial_num_evals", "init_eval", "max_doubling"), 3),
    **dict.fromkeys(("nb_parallel", "nb_samples", "max_batch_size", "nb_restarts", "k_init", "n_restarts"), 4),
    **dict.fromkeys(("max_eval", "max_num_evals", "n_queries", "init_size", "num_trial", "query_limit"), 20),
    **dict.fromkeys(("max_queries", "sample_size", "popsize", "inf_batch", "restarts"), 4),
    **dict.fromkeys(("full_epochs", "epochs", "nb_models"), 1),
    "max_iterations": 10,
    "batch_size": 4,
    "verbose": False,
    "summary_writer": False,
}
OTHERS = (  # of ART: for other data, tasks or frameworks than image classifiers of PyTorch
    *("CarliniWagnerASR", "ImperceptibleASR", "ImperceptibleASRPyTorch", "DPatch", "RobustDPatch", "SNAL"),
    *("DecisionTreeAttack", "HighConfidenceLowUncertainty", "MalwareGDTensorFlow", "OverloadPyTorch", "LowProFool"),
    *("OverTheAirFlickeringPyTorch", "AdversarialTexturePyTorch", "FrameSaliencyAttack"),
    *("AdversarialPatchTensorFlowV2", "FeatureAdversariesTensorFlowV2", "ProjectedGradientDescentTensorFlowV2"),
)
WAYS = ("as it is", 'on_out_of_range="clamp"', "does not run")


def main() -> None:
    options = measure.parser(__doc__, "attack_libraries", runs=1)
    options.add_argument("--images", type=int, default=4, help="of the embedded digits' test split")
    options.add_argument("--only", nargs="+", help="attacks to run again; others keep their rows of the output")
    options.add_argument("--seconds", type=int, default=20, help="of CPU time given to an attack")
    options.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, _silence():
        config = MMCoAConfig(output_dir=folder, report_to="none", disable_tqdm=True, use_cpu=True)
        model, processor = pretrain_on_digits(config, epochs=1 if args.quick else 10)
    model.eval().requires_grad_(False)  # the libraries would fill gradients
    classifiers = {
        way: ZeroShotClassifier(model, processor, CLASS_NAMES, on_out_of_range=choice).eval()
        for way, choice in zip(WAYS, ("raise", "clamp"), strict=False)
    }
    test = load_digits("test")[: args.images]
    images, labels = torch.stack([to_tensor(image) for image in test["image"]]), torch.tensor(test["label"])
    former = json.loads(args.output.read_text(encoding="utf-8"))["runs"] if args.only else []
    rows = {(run["library"], run["attack"]): run for run in former}
    for library in args.libraries:
        names = LIBRARIES[library](classifiers[WAYS[0]])
        for name in itertools.islice(names, 3 if args.quick else None):
            if args.only and name not in args.only:
                continue
            found = look(lambda way: LIBRARIES[library](classifiers[way])[name], images, labels, args.seconds)  # noqa: B023
            rows[library, name] = {"library": library, "attack": name, **found}
            print(library, name, found["way"], found.get("reason", ""), flush=True)
    runs = list(rows.values())
    counts = {way: sum(run["way"] == way for run in runs) for way in WAYS}
    settings = {"images": args.images, "seconds": args.seconds}
    stopped = sum("must hold pixels" in run.get("reason", "") for run in runs)  # by our check, although asked to clamp
    result = measure.report("attack_libraries", runs, settings=settings, quick=args.quick, target=0, counts=counts)
    result["met"] = None if args.quick else stopped == 0
    measure.save(result, args.output)
    print(f"\n{markdown(result)}\n\n{counts}")
    print(measure.verdict(result, "attacks that our check of the pixels stops"))
    raise SystemExit(result["met"] is False)


def look(build: Callable[[str], Attack], images: Tensor, labels: Tensor, seconds: int) -> dict[str, Any]:
    """Run one attack as it is, and again with clamping if only that stops it: the way in which it ran, or why not."""
    reason = ""
    for way in WAYS[:2]:
        torch.manual_seed(0), np.random.seed(0)
        try:
            with _silence(), _limit(seconds):
                attacked = build(way)(images.clone(), labels.clone())
            if attacked.shape != images.shape or not attacked.isfinite().all():
                raise ValueError(f"gives {tuple(attacked.shape)} with {int((~attacked.isfinite()).sum())} NaN")
            return {"way": way, "moved": float((attacked.detach() - images).abs().amax())}
        except (Exception, SystemExit) as error:
            text = str(error).strip()
            reason = f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
            if "must hold pixels in [0, 1]" not in text:
                break
    return {"way": WAYS[2], "reason": reason[:200]}


def foolbox_attacks(classifier: ZeroShotClassifier) -> dict[str, Attack]:
    import foolbox

    model, kinds = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu"), foolbox.attacks

    def run(kind: Any) -> Attack:
        def attack(images: Tensor, labels: Tensor) -> Tensor:
            criterion, more = foolbox.criteria.Misclassification(labels), {}
            built = _short(kind)
            if kind is kinds.GenAttack:
                criterion = foolbox.criteria.TargetedMisclassification((labels + 1) % len(CLASS_NAMES))
            other = kinds.DatasetAttack()
            other.feed(model, load_all())
            if kind is kinds.DatasetAttack:
                built = other
            if kind is kinds.BinarizationRefinementAttack:
                more["starting_points"] = other(model, images, criterion, epsilons=None)[0]
            epsilons = None if issubclass(kind, foolbox.attacks.base.MinimizationAttack) else 0.3
            if kind is kinds.SpatialAttack:
                epsilons = None
            return built(model, images, criterion, epsilons=epsilons, **more)[1]

        return attack

    return {name: run(kind) for name, kind in _classes(kinds).items() if name != "Attack"}


def load_all() -> Tensor:
    """Some other images, which attacks may start from."""
    return torch.stack([to_tensor(image) for image in load_digits("train")[:50]["image"]])


def art_attacks(classifier: ZeroShotClassifier) -> dict[str, Attack]:
    import art.attacks.evasion as kinds
    from art.estimators.classification import PyTorchClassifier

    logits, probabilities = (
        PyTorchClassifier(
            model,
            loss=torch.nn.CrossEntropyLoss(),
            optimizer=torch.optim.SGD(classifier.parameters(), lr=0.0),
            input_shape=(3, 8, 8),
            nb_classes=len(CLASS_NAMES),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        for model in (classifier, torch.nn.Sequential(classifier, torch.nn.Softmax(dim=1)))
    )

    def run(name: str, kind: Any) -> Attack:
        def attack(images: Tensor, labels: Tensor) -> Tensor:
            pixels, truth = images.numpy(), np.eye(len(CLASS_NAMES), dtype=np.float32)[labels.numpy()]
            others = np.roll(truth, 1, axis=1)
            special: dict[str, dict[str, Any]] = {
                "AdversarialPatch": {"patch_shape": (3, 4, 4)},
                "AdversarialPatchPyTorch": {"patch_shape": (3, 4, 4)},
                "CarliniLInfMethod": {"largest_const": 1.0, "decrease_factor": 0.5},
                "FeatureAdversariesNumpy": {"layer": 0, "delta": 0.3},
                "FeatureAdversariesPyTorch": {"layer": 0, "delta": 0.3, "step_size": 0.1},
                "PixelAttack": {"th": 5, "es": 0},
                "ThresholdAttack": {"th": 30, "es": 0},
                "SignOPTAttack": {"targeted": False},
                "ShadowAttack": {"batch_size": 1},
                "AutoAttack": {"eps": 0.3, "attacks": [_short(kinds.FastGradientMethod, logits)]},
                "SimBA": {"attack": "px", "batch_size": 1},
                "GeoDA": {"sub_dim": 4, "batch_size": 1},
                "GRAPHITEBlackbox": {"noise_size": (8, 8), "net_size": (8, 8)},
                "GRAPHITEWhiteboxPyTorch": {"net_size": (8, 8)},
                "TargetedUniversalPerturbation": {"attacker": "fgsm", "attacker_params": {}},
                "UniversalPerturbation": {"attacker": "fgsm", "attacker_params": {}},
                "ZooAttack": {"use_resize": False, "use_importance": False, "batch_size": 1, "nb_parallel": 2},
            }
            estimator = probabilities if name in ("SimBA", "VirtualAdversarialMethod") else logits
            built = _short(kind, estimator, **special.get(name, {}))
            targeted = name == "TargetedUniversalPerturbation" or getattr(built, "targeted", False)
            call: dict[str, Any] = {"y": others if targeted else truth}
            if name == "GRAPHITEBlackbox":
                call["x_tar"] = load_all()[: len(images)].numpy()
            if name == "ShadowAttack":  # one image at a time
                return torch.from_numpy(
                    np.concatenate([built.generate(one[None], y[None]) for one, y in zip(pixels, truth, strict=True)])
                )
            if name.startswith("FeatureAdversaries"):
                call = {"y": load_all()[: len(images)].numpy()}
            if name.startswith("AdversarialPatch"):
                built.generate(pixels, truth)
                return torch.from_numpy(np.asarray(built.apply_patch(pixels, scale=0.5), dtype=np.float32))
            return torch.from_numpy(np.asarray(built.generate(pixels, **call), dtype=np.float32))

        return attack

    return {name: run(name, kind) for name, kind in _classes(kinds).items() if name not in OTHERS}


def torchattacks_attacks(classifier: ZeroShotClassifier) -> dict[str, Attack]:
    import torchattacks

    def run(name: str, kind: Any) -> Attack:
        def attack(images: Tensor, labels: Tensor) -> Tensor:
            more: dict[str, Any] = {}
            if name == "MultiAttack":
                return kind([torchattacks.FGSM(classifier), torchattacks.PGD(classifier, steps=3)])(images, labels)
            if name == "LGV":
                examples = torch.utils.data.TensorDataset(images, labels)
                more["trainloader"] = torch.utils.data.DataLoader(examples, batch_size=2)
            if name == "SPSA":
                more["nb_sample"] = 8
            if name in ("APGDT", "FAB", "AutoAttack"):
                more["n_classes"] = len(CLASS_NAMES)
            if name == "Pixle":
                more |= {"x_dimensions": (1, 3), "y_dimensions": (1, 3)}
            built = _short(kind, classifier, **more)
            for part in built._autoattack._attacks.values() if name == "AutoAttack" else ():
                part.steps, part.n_queries = 5, 20
            return built(images, labels)

        return attack

    return {name: run(name, getattr(torchattacks, name)) for name in torchattacks.__all__}


def pyautoattack_attacks(classifier: ZeroShotClassifier) -> dict[str, Attack]:
    import pyautoattack

    def run(component: str, norm: Any) -> Attack:
        def attack(images: Tensor, labels: Tensor) -> Tensor:
            suite = pyautoattack.AutoAttack(classifier, norm=norm, eps=0.1, seed=0, device="cpu", version="standard")
            suite.attacks_to_run = [component]
            for part, budget in (("apgd", "n_iter"), ("apgd_targeted", "n_iter"), ("fab", "n_iter")):
                setattr(getattr(suite, part), budget, 5)
            suite.square.n_queries = 20
            found = suite.run_standard_evaluation(images, labels, batch_size=16)
            return found[0] if isinstance(found, tuple) else found

        return attack

    parts = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
    return {f"{part} {norm}": run(part, norm) for part in parts for norm in ("Linf", "L2", "L1")}


LIBRARIES: dict[str, Callable[[ZeroShotClassifier], dict[str, Attack]]] = {
    "foolbox": foolbox_attacks,
    "ART": art_attacks,
    "torchattacks": torchattacks_attacks,
    "pyautoattack": pyautoattack_attacks,
}


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/attacks.md: a row for each library and way, and for what does not run its reason."""
    lines = ["| library | runs | attacks |", "|---|---|---|"]
    for library in dict.fromkeys(run["library"] for run in result["runs"]):
        for way in WAYS:
            found = [run for run in result["runs"] if run["library"] == library and run["way"] == way]
            if not found:
                continue
            names = [f"{run['attack']} ({_cell(run['reason'])})" if way == WAYS[2] else run["attack"] for run in found]
            lines.append(f"| {library} | {way}: {len(found)} | {', '.join(names)} |")
    return "\n".join(lines)


def _cell(reason: str) -> str:
    text = reason.replace("|", "/").replace("`", "'").replace("<", "(").replace(">", ")").replace("*", "x")
    return text if len(text) <= 90 else text[:87] + "..."


def _classes(module: Any) -> dict[str, Any]:
    """Every class of a module under its own name: aliases, such as PGD for LinfProjectedGradientDescentAttack, once."""
    return {kind.__name__: kind for _, kind in inspect.getmembers(module, inspect.isclass)}


def _short(kind: Any, *first: Any, **more: Any) -> Any:
    """Build an attack with the budgets that its constructor knows."""
    known = inspect.signature(kind.__init__).parameters
    return kind(*first, **{name: value for name, value in BUDGETS.items() if name in known} | more)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} CPU seconds")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
