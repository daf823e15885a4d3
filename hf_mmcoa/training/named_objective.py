"""The objective that a configuration names, as an object."""

from __future__ import annotations

from ..config import MMCoAConfig
from ..objectives import FARE, LEAF, PMGAFT, TGAZSR, Clean, FAREAndLEAF, MMCoA, Objective, TeCoA


def named_objective(args: MMCoAConfig, image_size: int) -> Objective:
    """Return the objective that `args.objective` names, with the fields of `args` that are its own."""
    if args.objective == "mmcoa":
        return MMCoA(
            lambda_image=args.lambda_image,
            lambda_text=args.lambda_text,
            lambda_clean=args.lambda_clean,
            lambda_class=args.lambda_class,
            lambda_distill=args.lambda_distill,
            accumulate_attack_gradients=args.accumulate_attack_gradients,
        )
    fare = FARE(clean_weight=args.clean_weight, trades=args.trades)
    named: dict[str, Objective] = {
        "clean": Clean(),
        "tecoa": TeCoA(),
        "fare": fare,
        "pmg-aft": PMGAFT(release_scaling=args.release_scaling),
        "tga-zsr": TGAZSR(image_size=image_size),
        "leaf": LEAF(),
        "fare+leaf": FAREAndLEAF(fare=fare),
    }
    return named[args.objective]
