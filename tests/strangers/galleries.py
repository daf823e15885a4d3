"""A gallery of one sample, whose names are the caller's."""

from __future__ import annotations

import numpy as np

from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.report.gallery import THREATS, Gallery, Prediction, Sample, View


def make_gallery(name: str = "cat") -> Gallery:
    """One image of class `name`, seen by a model of that name, which says so."""
    image = np.full((3, 4, 4), 0.5, np.float32)
    seen = {threat: Prediction(label=0, probability=0.9) for threat in THREATS}
    view = View(perturbation=image / 10, prompt=f"a {name}", adv_prompt=f"an {name}", predictions=seen)
    sample = Sample(row_id=0, label=0, image=image, views={name: view})
    return Gallery(samples=[sample], class_names=[name, "dog"], attack_spec=ThreatModel().to_dict(), seed=0)
