"""Ranks of every query under every attack to recalls, worst cases and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .attack_names import AttackName, worst_case_attacks
from .clusters import cluster_interval
from .pairs import Pairs, ranks_of_best
from .statistics import wilson_interval

DEPTHS = (1, 5, 10)


DIRECTIONS = ("image_to_text", "text_to_image")


Embeds = dict[str, Tensor]


"""Embeddings of all images, (images, dim), by "<attack>" or "<attack>|<restart>"."""


def all_ranks(images: Embeds, texts: Embeds, pairs: Pairs, multimodal: Sequence[str]) -> dict[str, list[int]]:
    """Return ranks of every query by "<attack>/<direction>"; of several restarts or pairs of sides the worst per query.

    Args:
        images: embeddings of the images, clean and attacked, see `Embeds`.
        texts: embeddings of the captions, (captions, dim): "clean" and by text attack.
        pairs: which belong together.
        multimodal: "independent" and "adaptive", if they are run; others are ignored.
    """
    runs: dict[str, list[Tensor]] = {}
    for name, embeds in images.items():
        runs.setdefault(name.partition("|")[0], []).append(embeds)
    attacked_images = {name: found for name, found in runs.items() if name.startswith("image/")}
    answers = dict(zip(DIRECTIONS, (pairs.captions_of, pairs.images_of), strict=True))
    met = {"clean": [(images["clean"], texts["clean"])]}  # sides: images, texts
    met |= {name: [(embeds, texts["clean"]) for embeds in found] for name, found in attacked_images.items()}
    met |= {words: [(images["clean"], embeds)] for words, embeds in texts.items() if words != "clean"}
    parsed = {name: AttackName.parse(name) for name in texts if name != "clean"}
    sources = dict.fromkeys(parts.source for parts in parsed.values() if parts.attack == "words")
    for source in sources or {"": None}:
        realised = [
            name
            for name, parts in parsed.items()
            if parts.realised and (parts.attack != "words" or parts.source == source)
        ]
        for name in multimodal:
            if name not in ("independent", "adaptive"):
                continue
            sides = []
            for words in realised:
                made_for_it = {key: found for key, found in runs.items() if key.startswith(f"{words}/")}
                adv_images = attacked_images if name == "independent" else made_for_it
                sides += [(embeds, texts[words]) for found in adv_images.values() for embeds in found]
            met[str(AttackName("multimodal", name, "blind", source))] = sides
    return {
        f"{attack}/{direction}": [
            max(ranks)
            for ranks in zip(
                *(ranks_of_best(sides[query], sides[1 - query], relevant) for sides in found),
                strict=True,
            )
        ]
        for attack, found in met.items()
        for query, (direction, relevant) in enumerate(answers.items())
    }


def retrieval_table(result: Mapping[str, Any]) -> str:
    """Return the recalls of a result in percent, a row per threat, aligned for a terminal.

    Example:
        >>> names = [f"clean_{direction}_recall_at_{k}" for direction in DIRECTIONS for k in DEPTHS]
        >>> print(retrieval_table(dict.fromkeys(names, 0.5)))
                          image to text           text to image
                         R@1   R@5  R@10         R@1   R@5  R@10
        clean           50.0  50.0  50.0        50.0  50.0  50.0
    """
    first = f"_{DIRECTIONS[0]}_recall_at_{DEPTHS[0]}"
    threats = [name.removesuffix(first) for name in result if name.endswith(first) and "/" not in name]
    lines = [" " * 18 + "image to text           text to image", " " * 17 + "R@1   R@5  R@10         R@1   R@5  R@10"]
    for threat in threats:
        cells = [
            "".join(f"{100 * result[f'{threat}_{direction}_recall_at_{depth}']:6.1f}" for depth in DEPTHS)
            for direction in DIRECTIONS
        ]
        lines.append(f"{threat.replace('_', ' '):14}{cells[0]}      {cells[1]}")
    return "\n".join(lines)


def recalls(ranks: Mapping[str, Sequence[int]], captions_of: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return every number of a result from its ranks: worst cases with their intervals, then single attacks.

    Intervals generalise over images. Captions of one image are not independent, nor are images that share a caption:
    images and captions that are connected form one cluster. Where each query is alone in its cluster, the interval is
    Wilson's.

    Args:
        ranks: as of `all_ranks`.
        captions_of: for each image the places of its own captions.

    Raises:
        ValueError: if `captions_of` is not of as many images and captions as there are ranks.
    """
    images, captions = (len(ranks[f"clean/{direction}"]) for direction in DIRECTIONS)
    if len(captions_of) != images or not all(0 <= place < captions for own in captions_of for place in own):
        raise ValueError(f"`captions_of` must name captions of {images} images, each in 0 to {captions - 1}.")
    clusters = clusters_of_queries(captions_of, captions)
    numbers: dict[str, Any] = {}
    for (threat, direction), worst in worst_ranks(ranks).items():
        for depth in DEPTHS:
            hits, name = [rank <= depth for rank in worst], f"{threat}_{direction}_recall_at_{depth}"
            numbers[name] = sum(hits) / len(worst)
            numbers[f"{name}_interval"] = _interval(hits, clusters[direction])
    return numbers | {
        f"attacks/{name}_recall_at_{depth}": sum(rank <= depth for rank in found) / len(found)
        for name, found in ranks.items()
        for depth in DEPTHS
    }


def worst_ranks(ranks: Mapping[str, Sequence[int]]) -> dict[tuple[str, str], list[int]]:
    """Return the worst rank of every query over a threat's attacks, by threat ("clean", "text_unseen") and direction.

    Example:
        >>> ranks = {f"{name}/{d}": [rank] for name, rank in (("clean", 1), ("image/pgd-ce", 3)) for d in DIRECTIONS}
        >>> worst_ranks(ranks)["image", "image_to_text"]
        [3]
    """
    attacks = list(dict.fromkeys(name.rpartition("/")[0] for name in ranks))
    return {
        (name.removesuffix("_accuracy"), direction): [
            max(column) for column in zip(*(ranks[f"{one}/{direction}"] for one in members), strict=True)
        ]
        for name, members in worst_case_attacks(attacks, by_adversary=False).items()
        for direction in DIRECTIONS
    }


def clusters_of_queries(captions_of: Sequence[Sequence[int]], num_captions: int) -> dict[str, list[int]]:
    """Return, for each direction, the number of the connected images and captions that every query belongs to."""
    return dict(zip(DIRECTIONS, _connected(captions_of, num_captions), strict=True))


def _interval(hits: Sequence[bool], clusters: Sequence[int]) -> list[float]:
    if len(set(clusters)) == len(clusters):
        return wilson_interval(sum(hits), len(hits))
    found = cluster_interval(hits, {"images": clusters})
    return [found.low, found.high]


def _connected(captions_of: Sequence[Sequence[int]], num_captions: int) -> tuple[list[int], list[int]]:
    """Return the number of the connected part that each image, and each caption, belongs to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    images = [image for image, own in enumerate(captions_of) for _ in own]
    captions = [caption for own in captions_of for caption in own]
    nodes = len(captions_of) + num_captions
    edges = (images, [len(captions_of) + caption for caption in captions])
    _, parts = connected_components(coo_array(([1] * len(images), edges), shape=(nodes, nodes)), directed=False)
    return parts[: len(captions_of)].tolist(), parts[len(captions_of) :].tolist()
