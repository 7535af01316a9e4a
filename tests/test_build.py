"""Every size, weight and threshold of a config reaches the part that it is for."""

import pytest

from ita.config import load_config
from ita.meta_arch import ITA
from ita.modeling.inference import InferenceOptions
from tests.engine.tiny import CONFIG, overrides

# None of them its key's default, nor the value of another key of its kind.
VALUES = {
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 64,
    "MODEL__SEM_SEG_HEAD__MASK_DIM": 48,
    "MODEL__SEM_SEG_HEAD__TRANSFORMER_ENC_LAYERS": 2,
    "MODEL__SEM_SEG_HEAD__DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 5,
    "MODEL__MASK_FORMER__HIDDEN_DIM": 32,
    "MODEL__MASK_FORMER__NHEADS": 2,
    "MODEL__MASK_FORMER__DIM_FEEDFORWARD": 40,
    "MODEL__MASK_FORMER__DEC_LAYERS": 5,
    "MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": 7,
    "MODEL__MASK_FORMER__DEEP_SUPERVISION": False,
    "MODEL__MASK_FORMER__NO_OBJECT_WEIGHT": 0.2,
    "MODEL__MASK_FORMER__CLASS_WEIGHT": 1.5,
    "MODEL__MASK_FORMER__MASK_WEIGHT": 3.5,
    "MODEL__MASK_FORMER__DICE_WEIGHT": 4.5,
    "MODEL__MASK_FORMER__TRAIN_NUM_POINTS": 99,
    "MODEL__MASK_FORMER__OVERSAMPLE_RATIO": 2.5,
    "MODEL__MASK_FORMER__IMPORTANCE_SAMPLE_RATIO": 0.6,
    "MODEL__ITA__NUM_DOMINANT": 3,
    "MODEL__ITA__SELF_ATTENTION": True,
    "MODEL__ITA__IMAGE_EMBEDDING": "clip_preprocess",
    "MODEL__ITA__CANDIDATE_TEXT": "bare",
    "MODEL__FC_CLIP__GEOMETRIC_ENSEMBLE_ALPHA": 0.1,
    "MODEL__FC_CLIP__GEOMETRIC_ENSEMBLE_BETA": 0.9,
    "MODEL__FC_CLIP__ENSEMBLE_ON_VALID_MASK": True,
    "MODEL__MASK_FORMER__TEST__SEMANTIC_ON": False,
    "MODEL__MASK_FORMER__TEST__PANOPTIC_ON": True,
    "MODEL__MASK_FORMER__TEST__INSTANCE_ON": True,
    "MODEL__MASK_FORMER__TEST__SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": True,
    "MODEL__MASK_FORMER__TEST__OBJECT_MASK_THRESHOLD": 0.3,
    "MODEL__MASK_FORMER__TEST__OVERLAP_THRESHOLD": 0.7,
    "TEST__DETECTIONS_PER_IMAGE": 11,
}


@pytest.fixture(scope="module")
def model():
    return ITA(**ITA.from_config(load_config(CONFIG, overrides(**VALUES))))


def test_sizes(model):
    encoder, decoder = model.pixel_decoder, model.decoder
    assert encoder.mask_features.weight.shape[:2] == (48, 64)
    assert len(encoder.layers) == 2
    assert encoder.layers[0].attention.samples == (2, 3, 5)
    assert decoder.query_feature.weight.shape == (7, 32)
    assert decoder.query_position.weight.shape == (3 + 7, 32)
    assert len(decoder.layers) == 4
    layer = decoder.layers[0]
    assert layer.self_attention is not None
    assert layer.cross_attention.num_heads == 2
    assert layer.feed_forward.linear1.weight.shape == (40, 32)
    assert decoder.input_proj[0].weight.shape[:2] == (32, 64)
    assert decoder.head.mask_embed.layers[-1].out_features == 48
    assert model.dominant.num_dominant == 3
    assert model.dominant.projection.weight.shape == (32, model.backbone.embed_dim)
    assert (model.image_embedding, model.candidate_text) == ("clip_preprocess", "bare")


def test_losses(model):
    criterion, matcher = model.criterion, model.criterion.matcher
    assert criterion.weights == {"loss_ce": 1.5, "loss_mask": 3.5, "loss_dice": 4.5}
    assert (matcher.class_weight, matcher.mask_weight, matcher.dice_weight) == (1.5, 3.5, 4.5)
    assert matcher.num_points == criterion.num_points == 99
    assert (criterion.oversample_ratio, criterion.importance_ratio) == (2.5, 0.6)
    assert criterion.void_weight == 0.2
    assert not criterion.deep_supervision


def test_inference(model):
    assert model.inference_options == InferenceOptions(
        alpha=0.1,
        beta=0.9,
        ensemble_on_valid_mask=True,
        semantic=False,
        panoptic=True,
        instance=True,
        postprocess_before_inference=True,
        score_threshold=0.3,
        overlap_threshold=0.7,
        max_instances=11,
    )
