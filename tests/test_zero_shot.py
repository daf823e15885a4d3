"""The classifier that other libraries attack."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from hf_mmcoa.zero_shot import ZeroShotClassifier


@pytest.fixture
def classifier(tiny_clip, tiny_processor):
    return ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog", "red_car"])


def test_logits_equal_transformers_own(classifier, tiny_processor, images):
    tokens = tiny_processor.tokenizer(classifier.prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = classifier.model(pixel_values=classifier.encoder.pixel_values(images), **tokens)
        assert torch.allclose(classifier(images), output.logits_per_image, atol=1e-4)
    assert classifier.prompts[2] == "This is a photo of a red car"


def test_prompts_are_encoded_once_until_a_weight_changes(classifier, images):
    calls = []
    handle = classifier.model.text_model.register_forward_hook(lambda *_: calls.append(1))
    classifier(images), classifier(images)
    assert not calls, "they were encoded when the classifier was made"
    before = classifier.prompt_embeds
    optimizer = torch.optim.SGD(classifier.model.parameters(), lr=0.1)
    logits = classifier.model(
        pixel_values=classifier.encoder.pixel_values(images), **classifier.encoder.tokenize(classifier.prompts)
    ).logits_per_image
    logits.square().sum().backward()
    optimizer.step()
    calls.clear()
    assert not torch.allclose(classifier.prompt_embeds, before)
    classifier(images)
    assert len(calls) == 1
    handle.remove()


def test_a_first_call_in_inference_mode_or_autocast_leaves_nothing_behind(classifier, images):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        classifier(images)
    classifier(images.requires_grad_()).sum().backward()
    assert images.grad.abs().sum() > 0 and classifier.prompt_embeds.dtype == torch.float32
    fresh = ZeroShotClassifier(classifier.model, classifier.encoder.processor, classifier.class_names)
    assert torch.equal(classifier.prompt_embeds, fresh.prompt_embeds)


def test_several_templates_are_averaged_in_embedding_space(tiny_clip, tiny_processor):
    templates = ["This is a photo of a {}", "a picture of the {}"]
    both = ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog"], templates)
    single = [ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog"], one).prompt_embeds for one in templates]
    assert torch.allclose(both.prompt_embeds, torch.nn.functional.normalize(sum(single), dim=-1), atol=1e-6)


def test_images_of_any_size(classifier):
    assert classifier(torch.rand(2, 3, 50, 40)).shape == (2, 3)


def test_one_class_is_refused(tiny_clip, tiny_processor):
    with pytest.raises(ValueError, match="at least two classes"):
        ZeroShotClassifier(tiny_clip, tiny_processor, ["cat"])


def test_pixels_outside_the_range_are_refused(classifier):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        classifier(torch.rand(1, 3, 32, 32) * 255)


def test_pixels_outside_by_rounding_are_clamped_with_their_gradient(classifier):
    images = torch.rand(1, 3, 32, 32)
    images[:, 0], images[:, 1] = 1 + 2e-7, -3e-7
    inside = images.clamp(0, 1).requires_grad_()
    expected = classifier(inside)
    expected[0, 0].backward()
    found = classifier(images.requires_grad_())
    found[0, 0].backward()
    assert torch.equal(found, expected)
    assert torch.equal(images.grad, inside.grad) and (images.grad[:, :2] != 0).all()


def test_clamp_takes_what_an_attack_left_far_outside(tiny_clip, tiny_processor):
    classifier = ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog"], on_out_of_range="clamp")
    images = (torch.randn(2, 3, 32, 32) * 1e5).requires_grad_()
    found = classifier(images)
    assert torch.equal(found, classifier(images.detach().clamp(0, 1)))
    found[:, 0].sum().backward()
    assert (images.grad != 0).float().mean() > 0.9, "a pixel outside can come back"
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="got values from"):
            classifier(torch.full((1, 3, 32, 32), value))


@pytest.mark.parametrize("wrong", [lambda images: images * 255, lambda images: (images - 0.5) / 0.25])
def test_8_bit_and_normalised_images_are_refused_unless_asked(classifier, wrong):
    with pytest.raises(ValueError, match='on_out_of_range="clamp"'):
        classifier(wrong(torch.rand(1, 3, 32, 32)))


def test_an_unknown_choice_for_the_range_is_refused(tiny_clip, tiny_processor):
    with pytest.raises(ValueError, match="raise, clamp, got 'ignore'"):
        ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog"], on_out_of_range="ignore")


def compiled(classifier, images):
    return torch.compile(classifier, backend="eager", fullgraph=True)


def exported(classifier, images):
    batch = torch.export.Dim("batch")
    return torch.export.export(classifier, (images,), dynamic_shapes=({0: batch},), strict=False).module()


def strictly_exported(classifier, images):
    return torch.export.export(classifier, (images,), strict=True).module()


def mapped(classifier, images):
    return torch.func.vmap(lambda image: classifier(image[None])[0])


def traced(classifier, images):
    return torch.jit.trace(classifier, images)


in_one_graph = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="torch 2.6 finds breaks in transformers' own forward and guards on the batch size"
)
GRAPHS = [mapped, traced, *(pytest.param(one, marks=in_one_graph) for one in (compiled, exported, strictly_exported))]


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of sizes, which a trace keeps
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_of_the_classifier_equals_it_and_refuses_the_same(classifier, graph):
    images = torch.rand(2, 3, 40, 40)  # the resize is part of the graph
    images[0, 0] = 1 + 2e-7  # by rounding
    run = graph(classifier.eval(), torch.rand(2, 3, 40, 40))
    with torch.no_grad():
        assert torch.allclose(run(images), classifier(images), atol=1e-5)
        half = torch.cat([images[:1], images[1:] * 255])
        assert run(half).isnan().tolist() == [[False] * 3, [True] * 3], "a graph cannot raise"
        if graph in (exported, mapped):
            classifier.on_out_of_range = "clamp"
            assert torch.allclose(graph(classifier, images)(half), classifier(half), atol=1e-5)


def test_gradients_under_vmap_equal_those_of_a_batch(classifier, images):
    each = torch.func.vmap(torch.func.grad(lambda image: classifier(image[None])[0, 0]))(images)
    (batch,) = torch.autograd.grad(classifier(images.requires_grad_())[:, 0].sum(), images)
    assert torch.allclose(each, batch, atol=1e-5)


@pytest.mark.slow
@in_one_graph
def test_prompts_read_after_a_change_of_weights_reach_compiled_graphs_and_exports(classifier, images):
    run = compiled(classifier, images)
    with torch.no_grad():
        before = run(images)
        classifier.model.text_projection.weight.mul_(torch.randn(classifier.encoder.embed_dim, 1))
        with pytest.raises(RuntimeError, match="Read the classifier's `prompt_embeds` once"):
            exported(classifier, images)
        classifier.prompt_embeds  # noqa: B018  # what the message asks for
        assert torch.allclose(run(images), classifier(images), atol=1e-5), "the compiled graph reads the new ones"
        assert torch.allclose(exported(classifier, images)(images), classifier(images), atol=1e-5)
        assert not torch.allclose(run(images), before, atol=1e-2)


def test_weights_that_replace_others_in_memory_have_their_own_prompts(classifier, images):
    found = []
    for seed in range(3):  # each set is freed before the next is made, which may get its ids
        draw = torch.Generator().manual_seed(seed)
        weights = {
            name: torch.randn(weight.shape, generator=draw)
            for name, weight in classifier.named_parameters()
            if "text_projection" in name
        }
        found.append(torch.func.functional_call(classifier, weights, images).detach())
        del weights
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[1], found[2])


def test_a_copy_and_a_pickle_are_whole(classifier, images):
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert torch.equal(other(images), classifier(images))
        assert (
            other.state_dict().keys() == classifier.state_dict().keys() and "_prompt_embeds" not in other.state_dict()
        )


@pytest.mark.slow
@in_one_graph
def test_onnx_runs_in_onnxruntime(classifier, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    batch, size = torch.export.Dim("batch"), 40  # the resize is part of it
    path = tmp_path / "classifier.onnx"
    torch.onnx.export(
        classifier.eval(),
        (torch.rand(2, 3, size, size),),
        path,
        dynamo=True,
        input_names=["images"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.rand(5, 3, size, size)
    with torch.no_grad():
        (logits,) = session.run(None, {"images": images.numpy()})
        assert (torch.from_numpy(logits) - classifier(images)).abs().max() < 1e-4
    (refused,) = session.run(None, {"images": 255 * images.numpy()})
    assert torch.from_numpy(refused).isnan().all()
    weights = [weight.name for weight in onnx.load(path, load_external_data=False).graph.initializer]
    assert weights and not any("text_model" in name for name in weights), "prompts are in it, their encoder is not"


def test_from_pretrained(tiny_clip, tiny_processor, tmp_path, images):
    tiny_clip.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    loaded = ZeroShotClassifier.from_pretrained(tmp_path, ["cat", "dog"])
    own = ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog"])
    with torch.no_grad():
        assert torch.allclose(loaded(images), own(images), atol=1e-4)
