"""The whole model through its public interface."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import nn

from ita.build import inference_options
from ita.classes import ClassList
from ita.config import load_config
from ita.errors import UserError
from ita.meta_arch import ITA, build_model
from ita.modeling.image_towers import DENSE
from ita.modeling.postprocess import InferenceOptions
from ita.modeling.targets import SegmentMap
from ita.modeling.vocabulary import BARE, TextEncoder, class_logits
from ita.segmenter import Segmenter
from ita.toy.names import SEEN_THINGS
from tests.engine.tiny import CONFIG, overrides
from tests.recipe import INFERENCE

EVERYTHING = replace(INFERENCE, panoptic=True, instance=True)
TEST = ClassList.from_strings("test", ["cat, kitten", "zebra", "grass", "tree", "boat, ship"])


def make_record(height=64, width=96, /, targets=2, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    instances = Instances((height, width))
    instances.gt_classes = torch.randint(0, 5, (targets,), generator=generator)
    coarse = torch.rand(targets, 1, 3, 4, generator=generator) > 0.6
    instances.gt_masks = F.interpolate(coarse.float(), (height, width))[:, 0].bool()
    return {"image": image, "instances": instances, **more}


def fixed_points(sets, count, device):
    points = torch.rand(count, 2, generator=torch.Generator().manual_seed(9))
    return points.to(device).expand(sets, count, 2)


def without_zeros(model):
    """Some matrices start at zero, which would stop gradients and hide differences."""
    for module in (model.pixel_decoder, model.decoder):
        for parameter in module.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("targets", [(2, 3), (0, 2), (0, 0), (9, 1)])
@pytest.mark.parametrize("options", [{}, {"num_dominant": 0, "self_attention": True}])
def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one(targets, options, make_ita):
    """Else distributed training hangs; 9 targets are more than the 7 learned queries alone."""
    model = without_zeros(make_ita(**options)).train()
    losses = model([make_record(targets=n, seed=i) for i, n in enumerate(targets)])
    assert set(losses) == {
        f"loss_{kind}{suffix}"
        for kind in ("ce", "mask", "dice")
        for suffix in ("", "_0", "_1", "_2", "_3")
    }
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("backbone."):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if sum(targets):
                assert parameter.grad.any(), name
    assert not any(module.training for module in model.backbone.clip.modules())


def test_frozen_keys_are_those_of_clip(make_ita):
    model = make_ita()
    frozen = model.frozen_state_keys()
    assert frozen == {f"backbone.{name}" for name in model.backbone.state_dict()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(model.state_dict()) - frozen


def test_built_from_a_config():
    model = build_model(load_config(CONFIG, overrides()))
    assert isinstance(model, ITA)
    assert (model.decoder.num_dominant, model.decoder.num_queries) == (4, 6)
    assert len(model.decoder.layers) == 2
    assert model.train_class_list.name == "toy_seen"
    losses = model.train()([make_record(targets=1)])
    assert all(loss.isfinite() for loss in losses.values())
    plain = build_model(load_config(CONFIG, overrides(MODEL__ITA__NUM_DOMINANT=0)))
    assert plain.dominant is None
    assert len(plain.decoder.query_position.weight) == 6


def test_every_key_reaches_its_part(tmp_path):
    table = {"other": torch.ones(128)}
    torch.save(table, tmp_path / "table.pt")
    masks, test = "MODEL__MASK_FORMER__", "MODEL__MASK_FORMER__TEST__"
    keys = {f"{masks}{k}_WEIGHT": v for k, v in (("CLASS", 3), ("MASK", 4), ("DICE", 6))}
    keys |= {"MODEL__ITA__DOMINANT_MATCH_WEIGHT": 7.0}
    keys |= {f"{masks}NO_OBJECT_WEIGHT": 0.3, f"{masks}DEEP_SUPERVISION": False}
    keys |= {f"{masks}OVERSAMPLE_RATIO": 2.5, f"{masks}IMPORTANCE_SAMPLE_RATIO": 0.6}
    keys |= {f"{masks}HIDDEN_DIM": 16, f"{masks}NHEADS": 2, f"{masks}TRAIN_NUM_POINTS": 77}
    keys |= {f"{test}OBJECT_MASK_THRESHOLD": 0.1, f"{test}OVERLAP_THRESHOLD": 0.7}
    keys |= {f"{test}SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": True, f"{test}SEMANTIC_ON": False}
    keys |= {f"{test}PANOPTIC_ON": False, f"{test}INSTANCE_ON": True}
    keys |= {"MODEL__FC_CLIP__GEOMETRIC_ENSEMBLE_ALPHA": 0.2, "TEST__DETECTIONS_PER_IMAGE": 9}
    keys |= {"MODEL__FC_CLIP__GEOMETRIC_ENSEMBLE_BETA": 0.9}
    keys |= {"MODEL__FC_CLIP__ENSEMBLE_ON_VALID_MASK": True, "MODEL__ITA__SELF_ATTENTION": True}
    keys |= {"MODEL__ITA__IMAGE_EMBEDDING": "clip_preprocess", "MODEL__ITA__CANDIDATE_TEXT": "bare"}
    keys |= {"MODEL__ITA__NAME_TABLE": tmp_path / "table.pt", "MODEL__SEM_SEG_HEAD__MASK_DIM": 24}
    keys |= {"MODEL__SEM_SEG_HEAD__DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 5}
    cfg = load_config(CONFIG, overrides(**keys))
    model = build_model(cfg)
    assert inference_options(cfg) == InferenceOptions(
        alpha=0.2,
        beta=0.9,
        ensemble_on_valid_mask=True,
        semantic=False,
        panoptic=False,
        instance=True,
        postprocess_before_inference=True,
        score_threshold=0.1,
        overlap_threshold=0.7,
        max_instances=9,
    )
    criterion, matcher = model.criterion, model.criterion.matcher
    assert criterion.weights == {"loss_ce": 3, "loss_mask": 4, "loss_dice": 6}
    assert (matcher.class_weight, matcher.mask_weight, matcher.dice_weight) == (3, 4, 6)
    assert matcher.dominant_weight == 7
    assert (criterion.num_points, matcher.num_points) == (77, 77)
    assert (criterion.void_weight, criterion.deep_supervision) == (0.3, False)
    assert (criterion.oversample_ratio, criterion.importance_ratio) == (2.5, 0.6)
    assert (model.image_embedding, model.candidate_text) == ("clip_preprocess", "bare")
    assert torch.equal(model.name_table["other"], table["other"])
    layer = model.decoder.layers[0]
    assert layer.self_attention is not None
    assert layer.feed_forward.linear1.weight.shape == (32, 16)
    assert layer.cross_attention.num_heads == 2
    assert model.pixel_decoder.layers[0].attention.samples == (2, 3, 5)
    assert model.pixel_decoder.mask_features.weight.shape[:2] == (24, 32)
    assert model.decoder.input_proj[0].weight.shape[:2] == (16, 32)
    assert sorted(model.train_class_list.things) == list(range(len(SEEN_THINGS)))


@pytest.fixture
def count_texts(monkeypatch):
    """Counts the texts that a model's CLIP encodes."""

    def count(model):
        texts, encode = Counter(), model.backbone.encode_text

        def counting(batch, _):
            texts.update(batch)
            return encode(batch)

        monkeypatch.setattr(model.backbone, "encode_text", counting)
        return texts

    return count


@pytest.mark.parametrize("candidate_text", ["prompted", "bare"])
def test_a_name_is_encoded_once_however_often_it_is_used(candidate_text, make_ita, count_texts):
    model = make_ita(candidate_text=candidate_text)
    texts, text = count_texts(model), TextEncoder(model.backbone)
    model.prepare_training(text)
    for _ in range(2):
        model.train()([make_record()])
        model.make_vocabulary(TEST, text)
        model.make_vocabulary(model.train_class_list, text)
    assert set(texts.values()) == {1}
    names = {*TEST.synonyms, *model.train_class_list.synonyms}
    prompted = 14 * (len(names) + (candidate_text == "prompted"))
    assert len(texts) == prompted + (candidate_text == "bare") * (len(names) + 1)


def test_training_uses_the_training_classes(make_ita):
    model, seen = make_ita(), {}
    model.decoder.register_forward_hook(lambda _, args, __: seen.update(classifier=args[2]))
    model.train()([make_record()])
    expected = model.make_vocabulary(model.train_class_list, TextEncoder(model.backbone))
    assert torch.equal(seen["classifier"].weight[:-1], expected.features)
    assert expected.seen.all()
    assert expected.class_list.things == {0, 1, 4}


def test_a_vocabulary_knows_which_classes_are_seen(make_ita):
    model = make_ita()
    vocabulary = model.make_vocabulary(TEST, TextEncoder(model.backbone))
    assert vocabulary.class_list is TEST
    assert vocabulary.seen.tolist() == [True, False, True, False, False]
    assert vocabulary.class_index.tolist() == [0, 0, 1, 2, 3, 4, 4]


def test_segmenting_leaves_training_alone(make_ita):
    """Losses between results of another class list are those without them."""
    model = without_zeros(make_ita(point_source=fixed_points)).train()
    model.criterion.importance_ratio = 0.0
    records = [make_record(64, 64), make_record(64, 64, seed=1)]
    before = model(records)
    segment(model, records, TEST, EVERYTHING)
    after = model(records)
    assert model.training
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_records_without_annotations_have_no_losses(make_ita):
    with pytest.raises(UserError, match=r"ita\.Segmenter"):
        make_ita()([{"image": make_record()["image"]}])


def test_new_weights_of_clip_make_new_text_features(make_ita, convnext_clip):
    """Also of a state dict loaded straight into the model."""
    model = make_ita().train()
    before = model.prepare_training().features
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    original = state["backbone.clip.text_projection"]
    try:
        changed = {**state, "backbone.clip.text_projection": original.flip(0)}
        model.load_state_dict(changed)
        assert not torch.allclose(model.prepare_training().features, before)
    finally:
        model.load_state_dict(state)
    assert torch.equal(model.prepare_training().features, before)


@pytest.mark.parametrize("candidate_text", ["prompted", "bare"])
def test_candidates_are_all_synonyms_and_other(candidate_text, make_ita):
    width = make_ita().backbone.embed_dim
    table = {"dog": torch.full((width,), 2.0), "other": torch.ones(width), "zebra": torch.ones(1)}
    model = make_ita(
        candidate_text=candidate_text,
        name_table=table,
        classes=("cat", "dog, cat", "sky"),
    )
    text = TextEncoder(model.backbone)
    vocabulary = model.make_vocabulary(model.train_class_list, text)
    candidates = vocabulary.candidates
    names = ("cat", "dog", "cat", "sky", "other")
    assert candidates.names == names
    assert candidates.class_index.tolist() == [0, 1, 1, 2, -1]
    prompts = {"prompts": BARE} if candidate_text == "bare" else {}
    expected = text.encode(names, **prompts)
    assert torch.equal(candidates.ranking, expected)
    expected[1], expected[4] = 2.0, 1.0
    assert torch.equal(candidates.queries, expected)
    if candidate_text == "prompted":
        assert torch.equal(candidates.ranking[:4], vocabulary.features)
    without = make_ita(num_dominant=0)
    assert without.make_vocabulary(TEST, text).candidates is None


def test_the_shared_embedding_is_of_the_valid_area(clip, make_ita):
    """Neither the batch's padding nor the mapper's counts, nor what is in it."""
    model = make_ita(clip)
    records = [make_record(70, 40), make_record(96, 128, valid_size=(50, 97))]
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(2, clip.channels["res5"], 3, 4, generator=generator)
    ours = model.embed_images(records, dense)
    for b, (height, width) in enumerate([(70, 40), (50, 97)]):
        rows, columns = math.ceil(height / 32), math.ceil(width / 32)
        part = [min(1, height / 32 - i) for i in range(rows)]
        other = [min(1, width / 32 - i) for i in range(columns)]
        fraction = torch.zeros(1, 3, 4)
        fraction[0, :rows, :columns] = torch.tensor(part)[:, None] * torch.tensor(other)
        expected = clip.embed_area(dense[b : b + 1], fraction)
        torch.testing.assert_close(ours[b : b + 1], expected)
        garbage = dense.clone()
        garbage[b, :, rows:] = garbage[b, :, :, columns:] = 1e4
        torch.testing.assert_close(model.embed_images(records, garbage)[b], ours[b])


def test_the_second_pass_takes_the_image_without_its_padding(make_ita):
    model = make_ita(image_embedding="clip_preprocess")
    record = make_record(96, 128, valid_size=(50, 97))
    record["image"][:, 50:] = record["image"][:, :, 97:] = 128
    unused = torch.zeros(1, 1, 3, 4)
    ours = model.embed_images([record], unused)
    expected = model.backbone.embed_images([record["image"][:, :50, :97]])
    assert torch.equal(ours, expected)
    alone = {"image": record["image"][:, :50, :97]}
    assert torch.equal(model.embed_images([alone], unused), expected)


def decoder_queries(model, records):
    """Dominant queries and the number of predictions that the decoder was given and made."""
    seen = []
    hook = model.decoder.register_forward_hook(
        lambda _, args, out: seen.append((args[3], out[-1].class_logits.shape))
    )
    segment(model.eval(), records)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("image_embedding", ["shared", "clip_preprocess", "places"])
def test_dominant_queries_are_those_of_each_image(image_embedding, make_ita):
    model = make_ita(image_embedding=image_embedding)
    records = [make_record(70, 40, seed=1), make_record(96, 128, seed=2)]
    features = model.backbone(normalized(model, records))
    queries, shape = decoder_queries(model, records)
    embedding = model.embed_images(records, features[DENSE])
    vocabulary = model.make_vocabulary(model.train_class_list, TextEncoder(model.backbone))
    candidates = vocabulary.candidates
    index = model.dominant.rank(embedding, candidates)
    assert not torch.equal(index[0], index[1])
    assert torch.equal(queries, model.dominant(index, candidates))
    assert shape == (2, 3 + 7, 6)


def test_a_text_residual_gives_each_text_query_its_name(make_ita):
    model = make_ita(text_residual=True)
    torch.nn.init.zeros_(model.decoder.head.class_embed.layers[-1].weight)
    torch.nn.init.zeros_(model.decoder.head.class_embed.layers[-1].bias)
    images = model.encode_images([make_record(70, 40, seed=1), make_record(96, 128, seed=2)])
    class_list = ClassList.from_strings("new", ["cat", "dog", "tree, oak", "a road"])
    vocabulary = model.make_vocabulary(class_list, TextEncoder(model.backbone))
    decoded = model.decode(images, vocabulary, every_layer=True)
    named = decoded.dominant_classes >= 0  # the others are of "other"
    assert named.sum() >= 4
    for prediction in decoded.predictions:
        best = prediction.class_logits[:, :3].argmax(dim=-1)
        assert torch.equal(best[named], decoded.dominant_classes[named])


@pytest.mark.parametrize("sizes", [[(70, 40)], [(10, 10)], [(33, 200), (20, 20)]])
def test_named_queries_of_a_single_class(sizes, make_ita):
    model = make_ita(image_embedding="places", text_residual=True)
    records = [make_record(*size, seed=i) for i, size in enumerate(sizes)]
    results = segment(model, records, ClassList.from_strings("one", ["cat"]))
    for result, size in zip(results, sizes, strict=True):
        assert sorted(result["dominant_classes"].tolist()) == [-1, 0]
        assert result["label_map"].shape == size
        assert (result["label_map"] == 0).all()


def test_padding_has_no_places(make_ita):
    """What an image's own places show may differ near it, as everywhere in a padded batch."""
    model = make_ita(image_embedding="places")
    record, larger = make_record(64, 96, seed=1), make_record(128, 160, seed=2)
    alone = model.encode_images([record]).embedding
    together = model.encode_images([record, larger]).embedding
    assert together.shape[:2] == (2, 4 * 5)
    places = together[0].view(4, 5, -1)
    outside = places.clone()
    outside[:2, :3] = 0
    assert not outside.any()
    torch.testing.assert_close(places[:2, :3].flatten(0, 1).norm(dim=1), alone[0].norm(dim=1))


def segment(model, records, class_list=None, options=INFERENCE):
    """Results of records with a class list; the training one by default."""
    vocabulary = model.make_vocabulary(
        class_list or model.train_class_list, TextEncoder(model.backbone)
    )
    return Segmenter(model, vocabulary, options)(records)


def normalized(model, records):
    """RGB minus mean over standard deviation, then zeros right and bottom."""
    images = [record["image"] for record in records]
    height, width = (max(-(-i.shape[d] // 32) * 32 for i in images) for d in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    for row, image in zip(batch, images, strict=True):
        mean = torch.tensor(model.backbone.pixel_mean)[:, None, None]
        std = torch.tensor(model.backbone.pixel_std)[:, None, None]
        row[:, : image.shape[1], : image.shape[2]] = (image - mean) / std
    return batch


def test_fewer_candidates_than_queries(make_ita):
    model = make_ita(num_dominant=3, classes=("cat",))
    queries, shape = decoder_queries(model, [make_record()])
    assert queries.shape[1] == 2  # cat and other
    assert shape == (1, 2 + 7, 2)


def test_results_name_the_classes_of_the_dominant_categories(make_ita):
    """Those of each image, the most likely first; a class may have several names, "other" none."""
    classes = ("cat, kitten", "dog", "other")
    class_of = [0, 0, 1, 2, -1]
    model = make_ita(num_dominant=5, classes=classes).eval()
    records = [make_record(70, 40, seed=1), make_record(96, 128, seed=2)]
    features = model.backbone(normalized(model, records))
    images = F.normalize(model.embed_images(records, features[DENSE]), dim=-1)
    vocabulary = model.make_vocabulary(model.train_class_list, TextEncoder(model.backbone))
    orders = (images @ vocabulary.candidates.ranking.T).argsort(descending=True, stable=True)
    assert sorted(orders[0].tolist()) == [0, 1, 2, 3, 4]
    results = segment(model, records)
    few = segment(make_ita(num_dominant=2, classes=classes).eval(), records)
    none = segment(make_ita(num_dominant=0, classes=classes).eval(), records)
    for order, result, of_few in zip(orders.tolist(), results, few, strict=True):
        expected = [class_of[i] for i in order]
        assert result["dominant_classes"].dtype == torch.int64
        assert result["dominant_classes"].tolist() == expected
        assert of_few["dominant_classes"].tolist() == expected[:2]
    assert not any("dominant_classes" in result for result in none)


@pytest.mark.parametrize("classes", [("cat",), ("cat, kitten, tabby",), TEST.names])
@pytest.mark.parametrize("options", [EVERYTHING, INFERENCE])
def test_images_of_odd_and_different_sizes(classes, options, clip, make_ita):
    model = without_zeros(make_ita(clip)).eval()
    class_list = ClassList.from_strings("few", classes, (0,))
    records = [make_record(33, 95), make_record(70, 40, height=21, width=17), make_record(1, 50)]
    results = segment(model, records, class_list, options)
    assert len(results) == 3
    for result, size in zip(results, [(33, 95), (21, 17), (1, 50)], strict=True):
        assert result["sem_seg"].shape == (len(class_list), *size)
        assert result["sem_seg"].isfinite().all()
        if options is EVERYTHING:
            ids, segments = result["panoptic_seg"]
            assert ids.shape == size
            assert set(ids.unique().tolist()) <= {0, *(s["id"] for s in segments)}
            assert result["instances"].image_size == size
            assert (result["instances"].pred_classes == 0).all()
        else:
            assert set(result) == {"label_map", "sem_seg", "dominant_classes"}


def test_an_image_in_a_batch_is_the_image_alone(clip, make_ita):
    model = without_zeros(make_ita(clip)).eval()
    records = [make_record(64, 96, seed=i) for i in range(3)]
    together = segment(model, records)
    for record, result in zip(records, together, strict=True):
        torch.testing.assert_close(segment(model, [record])[0]["sem_seg"], result["sem_seg"])


def test_thousands_of_classes(make_ita, monkeypatch):
    model = make_ita().eval()
    monkeypatch.setattr(
        model.backbone, "encode_text", lambda t, _: torch.randn(len(t), model.backbone.embed_dim)
    )
    names = [f"class {i}, name {i}" for i in range(2000)]
    many = ClassList.from_strings("many", names, range(1000))
    (result,) = segment(model, [make_record(32, 32)], many)
    assert result["sem_seg"].shape == (2000, 32, 32)


@pytest.mark.parametrize("on_valid_mask", [False, True])
def test_the_class_scores_combine_decoder_and_frozen_clip(
    on_valid_mask, clip, make_ita, monkeypatch
):
    """Softmax by softmax, with the exponents of seen and unseen classes (design section 7)."""
    options = replace(INFERENCE, alpha=0.3, beta=0.7, ensemble_on_valid_mask=on_valid_mask)
    model = without_zeros(make_ita(clip)).eval()
    nn.init.constant_(model.decoder.head.logit_scale, 1.0)
    seen = {}
    monkeypatch.setattr(
        "ita.segmenter.segment_image", lambda scores, *_, **__: seen.update(scores=scores) or {}
    )

    def replace_masks(_, args, out):
        """Masks of both signs, every second one empty."""
        masks = out[-1].mask_logits + torch.randn(1, 10, 1, 1) - out[-1].mask_logits.mean()
        masks[:, ::2] = -1
        seen.update(classifier=args[2], last=out[-1]._replace(mask_logits=masks))
        return [*out[:-1], seen["last"]]

    model.decoder.register_forward_hook(replace_masks)
    record = make_record(64, 96, seed=3)
    segment(model, [record], TEST, options)
    classifier, (logits, masks, *_) = seen["classifier"], seen["last"]
    assert len(classifier.weight) == len(TEST.synonyms) + 1
    void = F.normalize(model.void_embedding.weight, dim=-1)
    torch.testing.assert_close(classifier.weight[-1:], void)
    dense = clip(normalized(model, [record]))[DENSE]
    masks = F.interpolate(masks, size=(2, 3), mode="bilinear", align_corners=False)
    regions = clip.embed_masks(dense, masks)
    outside = class_logits(regions, classifier, clip.clip.logit_scale)
    p_in, p_out = logits[..., :-1].softmax(-1), outside[..., :-1].softmax(-1)
    exponent = torch.tensor([0.3, 0.7, 0.3, 0.7, 0.7]).expand_as(p_in).clone()
    empty = (masks <= 0).flatten(2).all(-1)
    assert 0 < empty.sum() < empty.numel()
    if on_valid_mask:
        exponent[empty] = 0
    classes = (p_in ** (1 - exponent) * p_out**exponent).log().softmax(-1)
    void = logits.softmax(-1)[..., -1:]
    expected = torch.log(torch.cat([classes * (1 - void), void], -1) + 1e-8)
    torch.testing.assert_close(seen["scores"], expected[0])


def test_the_criterion_is_told_the_classes_of_the_text_queries(make_ita):
    """The same that inference reports."""
    model, seen = make_ita(), {}
    model.criterion.register_forward_hook(lambda _, args, __: seen.update(args=args))
    records = [make_record(64, 64), make_record(64, 64, seed=1)]
    results = segment(model, records)
    model.train()(records)
    told = [result["dominant_classes"].tolist() for result in results]
    assert seen["args"][2].tolist() == told
    assert len(told[0]) == model.dominant.num_dominant


def test_targets_lie_where_their_images_do(make_ita):
    """A batch of unequal sizes: points are relative to the padded images."""
    model, seen = make_ita().train(), {}
    model.criterion.register_forward_hook(lambda _, args, __: seen.update(args=args))
    records = [make_record(33, 90), make_record(64, 40, targets=0)]
    model(records)
    predictions, targets, _ = seen["args"]
    assert predictions[0].mask_logits.shape[-2:] == (16, 24)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    centers = torch.stack([(x + 0.5) / 96, (y + 0.5) / 64], dim=-1).view(1, -1, 2)
    for target, record in zip(targets, records, strict=True):
        truth = record["instances"]
        assert torch.equal(target.labels, truth.gt_classes)
        height, width = truth.image_size
        expected = torch.zeros(len(truth), 64, 96)
        expected[:, :height, :width] = truth.gt_masks
        sampled = target.sample(torch.arange(len(truth)), centers)
        torch.testing.assert_close(sampled.view_as(expected), expected, atol=1e-4, rtol=0)


def test_masks_as_one_map_give_the_losses_of_separate_masks(make_ita):
    model = without_zeros(make_ita(point_source=fixed_points)).train()
    records = [make_record(targets=3), make_record(64, 40, targets=2, seed=1)]
    dense, compact = [], []
    for record in records:
        truth = record["instances"]
        index = torch.randint(0, 4, truth.image_size, generator=torch.Generator().manual_seed(5))
        segments = SegmentMap(index.to(torch.uint8), len(truth))
        for masks, converted in ((segments.dense(), dense), (segments, compact)):
            instances = Instances(truth.image_size, gt_classes=truth.gt_classes, gt_masks=masks)
            converted.append({**record, "instances": instances})
    expected, losses = model(dense), model(compact)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-6)


def run_in(model, records, device, dtype):
    """Losses in mixed precision, and the types of what modules put out."""
    types = {}
    for name, module in model.named_modules():
        if name and not name.startswith("backbone"):  # which is shared by the tests
            module.register_forward_hook(
                lambda _, __, out, name=name: types.update({name: {x.dtype for x in tensors(out)}})
            )
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        return model.train()(records), types


def tensors(out):
    if isinstance(out, torch.Tensor):
        return [out]
    values = out.values() if isinstance(out, dict) else out
    return [x for value in values for x in tensors(value)]


def assert_mixed_precision(make_ita, device, dtype):
    records = [make_record(128, 128, targets=3, seed=i) for i in range(2)]
    losses = {}
    for d in (torch.float32, dtype):
        model = without_zeros(make_ita(point_source=fixed_points)).to(device)
        model.criterion.importance_ratio = 0.0
        losses[d], types = run_in(model, records, device, d)
        sum(losses[d].values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad.isfinite().all(), name
    assert types["criterion"] == {torch.float32}
    pixel = {name: t for name, t in types.items() if name.startswith("pixel_decoder")}
    assert (dtype in set().union(*pixel.values())) == (dtype == torch.bfloat16)
    low = ("cross_attention.out_proj", "feed_forward.linear1", "feed_forward.linear2")
    for i in range(4):
        for part in low:
            assert types[f"decoder.layers.{i}.{part}"] == {dtype}
    assert types["decoder.head.mask_embed"] == {dtype}
    # The mask features are the pixel decoder's.
    assert types["decoder"] == {dtype} | ({torch.float32} if dtype == torch.float16 else set())
    assert types["dominant.projection"] == {dtype}
    exact, low = (sum(losses[d].values()).item() for d in losses)
    assert low == pytest.approx(exact, rel=0.02)
    assert low != exact


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_on_the_cpu(dtype, make_ita):
    assert_mixed_precision(make_ita, "cpu", dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_on_the_gpu(dtype, make_ita, convnext_clip):
    try:
        assert_mixed_precision(make_ita, "cuda", dtype)
    finally:
        convnext_clip.to("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_batch_without_targets_on_the_gpu(dtype, make_ita, convnext_clip):
    try:
        model = make_ita().cuda()
        losses, _ = run_in(model, [make_record(targets=0)], "cuda", dtype)
        sum(losses.values()).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad.isfinite().all() for p in trained)
    finally:
        convnext_clip.to("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_image_tower_is_arranged_for_its_device(make_ita, convnext_clip):
    try:
        model = make_ita().cuda()
        weight = model.backbone.clip.visual.trunk.stem[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
    finally:
        convnext_clip.to("cpu")
    assert weight.is_contiguous()


def test_results_are_in_float32_under_mixed_precision(clip, make_ita):
    model = without_zeros(make_ita(clip)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        (result,) = segment(model, [make_record()], options=EVERYTHING)
    assert result["sem_seg"].dtype == torch.float32
    assert result["instances"].scores.dtype == torch.float32
    # Sums that were rounded to bfloat16 on the way would be few different numbers.
    assert len(result["sem_seg"].unique()) > 10000
