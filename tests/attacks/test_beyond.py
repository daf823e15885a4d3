"""Changes that no ball bounds: universal perturbations, written words and corruptions, and what they share."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hf_mmcoa.attacks import Corruptions, Typographic, UniversalPerturbation, train_universal
from hf_mmcoa.attacks.corruptions import CORRUPTIONS
from hf_mmcoa.attacks.factory import beyond_attack

NAMES = ["cat", "dog", "red car"]
DELTA = 0.1 * torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0)).sub(0.5).sign()
ATTACKS = [
    UniversalPerturbation(delta=DELTA, epsilon=0.1),
    Typographic(size=0.4),
    Typographic(size=0.4, place="top", num_words=1),
    Corruptions(),
    Corruptions(kinds=("gaussian-noise",), severities=(5,)),
]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(1))


LABELS, LOGITS = torch.tensor([0, 1, 2]), torch.tensor([[3.0, 1, 2], [1, 3, 2], [2, 1, 3]])


def changes(attack, images: Tensor, seed: int = 0) -> list:
    return list(attack(images, LABELS, LOGITS, NAMES, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_contract(attack, images):
    before, state = images.clone(), torch.get_rng_state()
    found = changes(attack, images)
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)
    for each in found:
        assert each.images.shape == images.shape and each.images.dtype == images.dtype
        assert not each.images.requires_grad and each.images.min() >= 0 and each.images.max() <= 1
        assert not torch.equal(each.images, images)
    assert all(torch.equal(one.images, other.images) for one, other in zip(found, changes(attack, images), strict=True))
    halves = [changes(attack, images.double())[0].images.dtype, len(changes(attack, images))]
    assert halves == [torch.float64, len(found)]


# Universal


def test_the_perturbation_is_added_and_clipped():
    attack = UniversalPerturbation(delta=torch.full((3, 2, 2), -0.2), epsilon=0.2)
    moved = attack.apply(torch.tensor([0.5, 0.1]).view(2, 1, 1, 1).expand(2, 3, 2, 2))
    torch.testing.assert_close(moved[:, 0, 0, 0], torch.tensor([0.3, 0.0]))
    with pytest.raises(ValueError, match="is of 2x2 pixels and the images of 3x3"):
        attack.apply(torch.rand(1, 3, 3, 3))


@pytest.mark.parametrize(
    ("delta", "epsilon", "named"),
    [
        (torch.zeros(1, 2, 2), 0.1, r"\(3, height, width\)"),
        (torch.full((3, 2, 2), float("nan")), 0.1, "NaN"),
        (torch.full((3, 2, 2), 0.2), 0.1, "linf length 0.2, above `epsilon` 0.1"),
        (torch.zeros(3, 2, 2), 8, "Did you mean 8 / 255"),
    ],
)
def test_a_perturbation_outside_its_ball_is_refused(delta, epsilon, named):
    with pytest.raises(ValueError, match=named):
        UniversalPerturbation(delta=delta, epsilon=epsilon)


@pytest.mark.parametrize("name", ["own.safetensors", "own.npy"])
def test_what_is_saved_is_loaded(name, tmp_path):
    attack = UniversalPerturbation(delta=DELTA, epsilon=0.1)
    attack.save(tmp_path / "deep" / name)
    loaded = UniversalPerturbation.load(tmp_path / "deep" / name)
    assert torch.equal(loaded.delta, DELTA) and loaded.epsilon == pytest.approx(0.1)
    assert loaded.fingerprint == attack.fingerprint != UniversalPerturbation(delta=-DELTA, epsilon=0.1).fingerprint
    assert beyond_attack(f"universal={tmp_path}/deep/{name}") == loaded


def test_files_of_others_are_read(tmp_path):
    np.save(tmp_path / "a.npy", DELTA.permute(1, 2, 0).numpy())
    torch.save(DELTA.unsqueeze(0), tmp_path / "b.pt")
    torch.save({"uap": DELTA.double()}, tmp_path / "c.pth")
    save_file({"anything": DELTA}, tmp_path / "d.safetensors")
    for name in ("a.npy", "b.pt", "c.pth", "d.safetensors"):
        loaded = UniversalPerturbation.load(tmp_path / name)
        torch.testing.assert_close(loaded.delta, DELTA)
        assert loaded.norm == "linf" and loaded.epsilon == pytest.approx(0.1)
    in_l2 = UniversalPerturbation.load(tmp_path / "a.npy", norm="l2", epsilon="7")
    assert (in_l2.norm, in_l2.epsilon) == ("l2", 7)
    with pytest.raises(ValueError, match=r"a.npy: `delta` has the linf length 0.1, above `epsilon` 0.0"):
        UniversalPerturbation.load(tmp_path / "a.npy", epsilon="1/255")


def test_what_is_no_perturbation_is_refused(tmp_path):
    np.save(tmp_path / "wide.npy", 255 * DELTA.numpy())
    np.save(tmp_path / "flat.npy", np.zeros(4, dtype=np.float32))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    torch.save({"a": DELTA, "b": DELTA}, tmp_path / "two.pt")
    torch.save({"a": copy.deepcopy}, tmp_path / "code.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name, named in {
        "wide.npy": "divide it by 255",
        "flat.npy": "must be",
        "object.npy": "no plain tensor",
        "two.pt": "must hold one tensor",
        "code.pt": "no plain tensor",
        "broken.safetensors": "no plain tensor",
        "delta.txt": r"is a .safetensors, .npy, .pt or .pth file",
    }.items():
        with pytest.raises(ValueError, match=named):
            UniversalPerturbation.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        UniversalPerturbation.load(tmp_path / "none.npy")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_training_finds_the_direction_that_misleads_all(norm):
    """Logits are plus and minus the mean of the red channel: red must fall, nothing else matters."""
    images = 0.5 + 0.2 * torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def logits_fn(images: Tensor) -> Tensor:
        red = images[:, 0].mean((1, 2)) - 0.5
        return torch.stack([red, -red], 1)

    def batches():
        for part in images.split(8):
            yield part, torch.zeros(len(part), dtype=torch.long)

    epsilon = 0.2 if norm == "linf" else 1.0
    found = train_universal(logits_fn, batches, epsilon=epsilon, norm=norm, epochs=40)
    red = found.delta[0]
    assert (logits_fn(images).argmax(1) == 0).all() and (logits_fn(found.apply(images)).argmax(1) == 1).all()
    torch.testing.assert_close(red, torch.full_like(red, -0.2 if norm == "linf" else -0.25), atol=0.02, rtol=0)
    few = train_universal(logits_fn, batches, epsilon=epsilon, norm=norm, epochs=1)
    assert few.delta[0].mean() > red.mean()  # it had fewer steps
    assert train_universal(logits_fn, batches, epsilon=epsilon, norm=norm, epochs=40).fingerprint == found.fingerprint
    other = train_universal(logits_fn, batches, epsilon=epsilon, norm=norm, epochs=1, seed=1)
    assert other.fingerprint != few.fingerprint
    with pytest.raises(ValueError, match="`epochs` must be at least 1"):
        train_universal(logits_fn, batches, epsilon=epsilon, epochs=0)
    with pytest.raises(ValueError, match="no image"):
        train_universal(logits_fn, lambda: [], epsilon=epsilon)


# Words


def test_each_sample_gets_the_likeliest_wrong_words_first(images):
    attack = Typographic(size=0.4)
    labels, covered = attack.labels(NAMES, 32, 40)
    first, second = (each.images for each in changes(attack, images))
    for row, (likelier, other) in enumerate([(2, 1), (2, 0), (0, 1)]):  # by LOGITS
        for found, word in ((first, likelier), (second, other)):
            inside = covered[word, 0].bool()
            assert torch.equal(found[row][:, inside], labels[word][:, inside])
            assert torch.equal(found[row][:, ~inside], images[row][:, ~inside])
    assert len(changes(Typographic(size=0.4, num_words=1), images)) == 1


def test_a_label_is_black_on_white_in_its_place():
    for place, rows in {"top": slice(0, 8), "bottom": slice(-8, None)}.items():
        labels, covered = Typographic(size=0.4, place=place).labels(NAMES, 32, 40)
        assert covered[0, 0, rows].amax() == 1 and labels[0][:, covered[0, 0].bool()].amax() == 1
        dark = (labels[0] < 0.3).all(0) & covered[0, 0].bool()
        assert 5 < dark.sum() < 0.5 * covered[0].sum()  # letters
    top, bottom = (Typographic(size=0.4, place=place).labels(NAMES, 32, 40)[1] for place in ("top", "bottom"))
    assert not torch.equal(top, bottom)
    large, small = (Typographic(size=size).labels(["cat"], 64, 64)[1].sum() for size in (0.4, 0.2))
    assert large > 2 * small
    different = Typographic(size=0.4).labels(NAMES, 32, 40)[0]
    assert not torch.equal(different[0], different[1])


def test_the_font_shrinks_until_the_longest_name_fits():
    covered = Typographic(size=0.9).labels(["a cat on a mat"], 64, 64)[1][0, 0]
    assert covered.any(0).sum() <= 64 and covered.any(1).sum() < 0.5 * 64


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 1.5}, {"place": "left"}, {"num_words": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
        Typographic(**settings)


def test_pictures_too_small_to_read_are_refused(images):
    with pytest.raises(ValueError, match=r"8x8 are too small to write 'red car'"):
        changes(Typographic(), images[..., :8, :8])


# Corruptions


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind != "jpeg"])
def test_severity_is_a_distance(kind):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 14, 14, generator=generator)
    images = 0.2 + 0.6 * torch.nn.functional.interpolate(coarse, (112, 112), mode="bilinear")
    found = list(Corruptions(kinds=(kind,))(images, LABELS, LOGITS, NAMES))
    distances = [float((each.images - images).square().mean()) for each in found]
    assert [(each.kind, each.severity) for each in found] == [(kind, degree) for degree in range(1, 6)]
    assert distances == sorted(distances) and 0 < 1.1 * distances[0] < distances[-1]


def test_corruptions_by_hand():
    generator = torch.Generator().manual_seed(0)
    apply = {kind: corrupt for kind, (corrupt, _) in CORRUPTIONS.items()}
    two = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2).expand(1, 3, 2, 2)
    torch.testing.assert_close(apply["contrast"](two, 0.5, generator)[0, 0, 0], torch.tensor([0.3, 0.5]))
    colour = torch.tensor([0.4, 0.2, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(apply["brightness"](colour, 0.4, generator).flatten(), torch.tensor([0.8, 0.4, 0.0]))
    torch.testing.assert_close(apply["brightness"](colour * 0, 0.4, generator).flatten(), torch.full((3,), 0.4))
    torch.testing.assert_close(apply["pixelate"](two, 0.5, generator), torch.full((1, 3, 2, 2), 0.4))
    noise = apply["gaussian-noise"](torch.zeros(1, 3, 64, 64), 0.2, generator)
    assert float(noise.std()) == pytest.approx(0.2, rel=0.05)
    point = torch.zeros(1, 3, 41, 41)
    point[:, :, 20, 20] = 1
    blurred = apply["gaussian-blur"](point, 2 * 224 / 41, generator)[0, 0]  # two pixels
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-3)
    assert float(blurred[20, 22] / blurred[20, 20]) == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert torch.equal(
        apply["gaussian-blur"](torch.ones(1, 3, 9, 9), 6, generator).round(decimals=5), torch.ones(1, 3, 9, 9)
    )
    assert torch.allclose(apply["jpeg"](two, 95, generator), two, atol=0.02)


def test_noise_follows_the_generator(images):
    attack = Corruptions(kinds=("gaussian-noise",), severities=(1,))
    one, other = (changes(attack, images, seed)[0].images for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("settings", [{"kinds": ("fog",)}, {"kinds": ()}, {"severities": (0,)}, {"severities": ()}])
def test_unknown_corruptions_are_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must be of"):
        Corruptions(**settings)


def test_names_of_the_factory():
    assert beyond_attack("corruptions") == Corruptions() and beyond_attack("typographic") == Typographic()
    with pytest.raises(ValueError, match="universal=FILE"):
        beyond_attack("universal")
    with pytest.raises(ValueError, match="unknown 'fog'"):
        beyond_attack("fog")
