"""Checks of the attacks on texts, on token embeddings and on both modalities.

What the run recorded covers all samples. Attacks on both are also run again, on a few samples with few steps: a run
skips what earlier attacks misled, and so cannot show that a later one does anything.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from ..attacks import factory
from ..attacks.enumeration import as_tokenized
from ..attacks.image_losses import margin_loss
from ..attacks.settings import MULTIMODAL_ADVERSARIES
from ..gradients import value_and_gradient
from ..models import encoding
from .attack_names import AttackName
from .attacked_texts import AttackedTexts
from .batch import EMBEDDING_RADII, evaluate_batch
from .findings import Finding, allowance, finding
from .prepare import Evaluation
from .sanity_images import Samples, all_gradients, shortened
from .text_changes import TextChanges

Records = Sequence[Mapping[str, Any]]

POOL_SAMPLES = 500  # legal texts of an attack whose changes are counted
PROMPTS = 32  # those whose token embeddings are checked


def check_texts(texts: AttackedTexts, records: Records) -> list[Finding]:
    """Return the findings on the attacks whose texts people can write, given what the batches recorded."""
    spec, findings = texts.spec, list(texts.found.findings)
    for name, adv_texts in texts.found.lists.items():
        findings.append(within_budget(texts.changes, name, zip(texts.texts, adv_texts, strict=True)))
        if texts.class_names and (spec.forbid_class_names or name in _shared(texts)):
            findings.append(keeps_class(name, texts.texts, [[text] for text in adv_texts]))
    for name, pools in texts.found.pools.items():
        findings.append(within_budget(texts.changes, name, _sampled(texts.texts, pools)))
        findings.append(keeps_class(name, texts.texts, pools))
    for name in _outcomes(records):
        if AttackName.parse(name).realised and name in records[0]["witnesses"]:
            findings.append(within_budget(texts.changes, name, _witnessed(texts.texts, records, name)))
    return findings


def check_controls(records: Records, texts: AttackedTexts) -> list[Finding]:
    """Return the findings that compare the attacks on texts with random texts, and with one another."""
    outcomes = _outcomes(records)
    findings = []
    for name in outcomes:
        parts = AttackName.parse(name)
        drawn = [record["controls"].get(str(parts._replace(adversary=""))) for record in records]
        if parts.kind != "text" or parts.adversary == "all" or None in drawn:
            continue
        lists = [sum(counts) for counts in zip(*(one["lists"] for one in drawn), strict=True)]
        findings.append(beats_controls(name, outcomes, {"lists": lists, "own": sum(one["own"] for one in drawn)}))
    for name in outcomes:
        parts = AttackName.parse(name)
        weaker = [str(parts._replace(adversary=adversary)) for adversary in ("own", "shared")]
        weaker = [other for other in weaker if other in outcomes]
        if parts.realised and parts.adversary == "all" and weaker:
            findings.append(covers(name, outcomes, weaker))
    return findings


def check_embeddings(texts: AttackedTexts, records: Records, samples: Samples | None) -> list[Finding]:
    """Return the findings on the attacks on token embeddings."""
    findings = []
    if "text/embedding/blind" in texts.embeds and "text/embedding" not in texts.spec.zero_budgets():
        name, places = "text/embedding/blind", torch.arange(len(texts.texts), device=texts.clean.device)
        places = places[:: -(-len(places) // PROMPTS)]
        loss = texts.embedding_loss(places)
        noises = texts.controls.get("text/embedding", texts.clean.unsqueeze(0))
        clean, attacked = (loss(embeds[places]) for embeds in (texts.clean, texts.embeds[name]))
        findings.append(within_radii(name, [texts.longest_shift], [texts.spec.rho]))
        findings.append(embedding_gradients(name, texts, places, loss))
        findings.append(raises_loss(name, clean, attacked, torch.stack([loss(noise[places]) for noise in noises])))
    if records and records[0]["curve"]:
        findings += _check_curve(texts, records, samples)
    return findings


def _check_curve(texts: AttackedTexts, records: Records, samples: Samples | None) -> list[Finding]:
    """Return the findings on the embedding attack that looks at the image."""
    name, spec = "text/embedding/own", texts.spec
    radii = [multiple * spec.rho for multiple in EMBEDDING_RADII]
    lengths = [max(column) for column in zip(*(record["embedding_lengths"] for record in records), strict=True)]
    robust = [sum(column) for column in zip(*(record["curve"] for record in records), strict=True)]
    findings = [within_radii(name, lengths, radii), falls_with_radius(name, robust, radii)]
    if samples is not None and "text/embedding" not in spec.zero_budgets():
        labels, rows = samples.labels, samples.labels.unsqueeze(1)
        images = texts.encoder.encode_images(samples.images)
        cosines = images @ texts.clean.T
        curve = factory.image_text_attack(spec).radius_curve(texts.encoder, texts.texts, images, labels, [spec.rho])
        drawn = [(images @ embeds.T).gather(1, rows) for embeds in texts.controls["text/embedding"]]
        noises = torch.stack([margin_loss(cosines.scatter(1, rows, own), labels) for own in drawn])
        findings.append(embedding_gradients(name, texts, labels, lambda embeds: -(images * embeds).sum(-1)))
        # A sample is left alone once it is misclassified, so that a margin counts up to 0.
        clean, attacked, noise = (
            margins.clamp(max=0) for margins in (margin_loss(cosines, labels), curve.margins[0], noises)
        )
        findings.append(raises_loss(name, clean, attacked, noise))
    return findings


def check_multimodal(
    texts: AttackedTexts, records: Records, again: Mapping[str, Any], samples: Samples
) -> list[Finding]:
    """Return the findings on the attacks on both modalities, given what the batches and `run_again` recorded."""
    findings, records = [], [*records, again]
    for name in dict.fromkeys(name for record in records for name in record["written"]):
        written = [tuple(record["written"][name]) for record in records if name in record["written"]]
        findings.append(
            {**within_budget(texts.changes, _words_of(name), written), "check": f"{name}: within its budget"}
        )
    if texts.spec.zero_budgets().get("image"):
        return findings
    outcomes = again["outcomes"]
    for name in (name for name in outcomes if name.startswith("multimodal/")):
        attack, drawn = AttackName.parse(name).attack, texts.controls.get(_words_of(name))
        independent = str(AttackName.parse(name)._replace(attack="independent"))
        if attack == "adaptive" and independent in outcomes:
            findings.append(not_weaker(name, outcomes, independent))
        elif attack in MULTIMODAL_ADVERSARIES and drawn is not None:
            findings.append(beats_controls(name, outcomes, samples.judge_noise(drawn)))
    return findings


def run_again(evaluation: Evaluation, samples: Samples) -> dict[str, Any]:
    """Run the attacks on images and on both on the samples, with few steps: every attack meets every sample."""
    steps, radius = samples.steps, evaluation.spec.pixel_radius
    step_size = 2.5 * radius / max(steps, 1)
    spec = dataclasses.replace(evaluation.spec, skip_fallen=False, num_steps=steps, step_size=step_size, restarts=1)
    attacks = {name: shortened(attack, radius, steps) for name, attack in evaluation.image_attacks.items()}
    short = dataclasses.replace(
        evaluation,
        spec=spec,
        attacks=("clean", "image", "multimodal"),
        beyond={},
        image_attacks={name: attack for name, attack in attacks.items() if attack is not None},
    )
    short.texts = copy.copy(evaluation.texts)  # with all that was found and embedded
    short.texts.spec = spec
    return evaluate_batch(short, 0, samples.batch)


def _words_of(name: str) -> str:
    """Return the attack on words whose substitutes an attack on both modalities uses."""
    return str(AttackName("text", "words", "", AttackName.parse(name).source))


# Each check on its own


def within_budget(changes: TextChanges, name: str, pairs: Iterable[tuple[str, str]]) -> Finding:
    """Check that no text has more changes than allowed."""
    pairs = list(pairs)
    if not pairs:
        return finding(f"{name}: within its budget", None, "not checked: the attack misled no sample")
    text, adv_text = changes.worst(name, pairs)
    count, allowed = changes.count(name, text, adv_text), changes.allowed(name)
    example = "" if text == adv_text else f", e.g. {text!r} -> {adv_text!r}"
    return finding(f"{name}: within its budget", count <= allowed, f"at most {count} of {allowed} changes{example}")


def keeps_class(name: str, prompts: Sequence[str], pools: Sequence[Sequence[str]]) -> Finding:
    """Check that no text that may replace a prompt is another class's prompt: its label would be wrong."""
    own = {as_tokenized(prompt) for prompt in prompts}
    taken = [
        f"{prompt!r} -> {text!r}"
        for prompt, pool in zip(prompts, pools, strict=True)
        for text in pool
        if (read := as_tokenized(text)) in own and read != as_tokenized(prompt)
    ]
    detail = f"{len(taken)} attacked prompts are another class's" + (f": {'; '.join(taken[:3])}" if taken else "")
    return finding(f"{name}: keeps the class", not taken, detail)


def beats_controls(name: str, outcomes: Mapping[str, str], drawn: Mapping[str, Any]) -> Finding:
    """Check that an attack leaves no more samples robust than what was drawn at random, see `controls.judge`.

    An adversary that looks at the images is compared with the worst draw, one that does not with the mean of them.
    """
    parts, samples, left = AttackName.parse(name), len(outcomes[name]), outcomes[name].count("1")
    lists = drawn["lists"]
    by_adversary = {"blind": sum(lists) / len(lists), "own": drawn["own"]}
    random = by_adversary.get(parts.adversary, min(lists))
    what = "random noise" if parts.attack == "embedding" else "a random substitute"
    what = "noise with a random substitute" if parts.kind == "multimodal" else what
    detail = f"{random:g} of {samples} are robust to it, {left} to the attack"
    return finding(f"{name}: {what} is not stronger", left <= random + allowance(samples), detail)


def covers(name: str, outcomes: Mapping[str, str], weaker: Sequence[str]) -> Finding:
    """Check that no sample withstands the strongest adversary and falls to one of those that it covers."""
    found = outcomes[name]
    missed = {
        other: sum(a == "1" and b == "0" for a, b in zip(found, outcomes[other], strict=True)) for other in weaker
    }
    detail = ", ".join(f"{count} of {len(found)} robust samples fall to {other}" for other, count in missed.items())
    passed = max(missed.values()) <= allowance(len(found)) // 10  # none, but for ties that rounding breaks
    return finding(f"{name}: misses nothing that a weaker adversary finds", passed, detail)


def not_weaker(name: str, outcomes: Mapping[str, str], other: str) -> Finding:
    """Check that an attack on images that knows the texts leaves no more samples robust than one that does not."""
    counts = [outcomes[each].count("1") for each in (name, other)]
    samples = len(outcomes[name])
    detail = f"{counts[1]} of {samples} are robust to {other}, {counts[0]} to it"
    return finding(f"{name}: is not weaker than independent", counts[0] <= counts[1] + allowance(samples), detail)


def within_radii(name: str, lengths: Sequence[float], radii: Sequence[float]) -> Finding:
    """Check that no token is moved further than the radius, in mean row norms of the token table."""
    inside = all(length <= radius * (1 + 1e-4) + 1e-6 for length, radius in zip(lengths, radii, strict=True))
    found = ", ".join(f"{length:.4g} of {radius:.4g}" for length, radius in zip(lengths, radii, strict=True))
    return finding(f"{name}: within its budget", inside, f"a token moves by at most {found}")


def raises_loss(name: str, clean: torch.Tensor, attacked: torch.Tensor, noises: torch.Tensor) -> Finding:
    """Check that an attack raises its loss, (texts,), and more so than noise of the same size does, (draws, texts)."""
    before, noise, after = clean.mean().item(), noises.mean().item(), attacked.mean().item()
    detail = f"mean {before:.4g} before, {noise:.4g} with noise, {after:.4g} after"
    return finding(f"{name}: raises the loss", after > before and after >= noise, detail)


def falls_with_radius(name: str, robust: Sequence[int], radii: Sequence[float]) -> Finding:
    """Check that a larger ball leaves no more samples standing."""
    rises = any(later > earlier for earlier, later in pairwise(robust))
    detail = f"{list(robust)} are robust at rho {', '.join(f'{radius:.4g}' for radius in radii)}"
    return finding(f"{name}: accuracy does not rise with rho", not rises, detail)


def embedding_gradients(name: str, texts: AttackedTexts, places: torch.Tensor, loss: Any) -> Finding:
    """Check that the loss of the attack has a gradient at the clean token embeddings of these texts."""
    model = texts.encoder.model
    tokens = texts.encoder.tokenize([texts.texts[place] for place in places.tolist()], truncation=True)
    clean = encoding.token_embeddings(model, tokens["input_ids"]).float()
    _, grad = value_and_gradient(lambda each: loss(encoding.text_embeds(model, **tokens, inputs_embeds=each)), clean)
    found = all_gradients(grad, encoding.word_positions(model, **tokens).unsqueeze(-1))
    return {**found, "check": f"{name}: {found['check']}"}


# What was recorded


def _outcomes(records: Records) -> dict[str, str]:
    return {name: "".join(record["outcomes"][name] for record in records) for name in records[0]["outcomes"]}


def _shared(texts: AttackedTexts) -> list[str]:
    return [name for name in texts.found.lists if AttackName.parse(name).adversary == "shared"]


def _witnessed(prompts: Sequence[str], records: Records, name: str) -> list[tuple[str, str]]:
    """Return pairs of the own class's prompt and the text that misled a sample."""
    return [
        (prompts[label], shown[0])
        for record in records
        for label, shown in zip(record["labels"], record["witnesses"][name], strict=True)
        if shown is not None
    ]


def _sampled(prompts: Sequence[str], pools: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Return pairs of a prompt and a legal text, drawn evenly from all of them."""
    pairs = [(prompt, text) for prompt, pool in zip(prompts, pools, strict=True) for text in pool]
    return pairs[:: max(1, len(pairs) // POOL_SAMPLES)]
